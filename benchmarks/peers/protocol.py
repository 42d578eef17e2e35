"""The side of a peer's process: one JSON line for each line on standard input. Standard library only.

"run" is answered by the times of one repetition, "memory" by the bytes that one takes.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[[], object]
"""One repetition, finished when it returns."""


def parser() -> argparse.ArgumentParser:
    """Options that every peer has."""
    options = argparse.ArgumentParser()
    options.add_argument("--refs", type=Path, required=True, help="folder of the checkouts")
    options.add_argument("--threads", type=int, default=1)
    return options


def shapes(size: int, tensors: int) -> list[tuple[int, int]]:
    """Equal matrices, as square as can be, of about `size` numbers in all."""
    rows = max(1, math.isqrt(size // tensors))
    return [(rows, max(1, round(size / tensors / rows)))] * tensors


def limit_cores(num: int) -> None:
    """Keep the process to `num` cores; before JAX is imported, which has no other limit."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num])


def memory(run: Run) -> int:
    """The most that the process's resident set grows in one repetition (Linux). Call `run` before, to settle."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before counts as new when it is taken again
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def serve(start: Callable[[], tuple[Run, dict[str, Any]]]) -> None:
    """Set up, run once, say how long that took, then answer each line until the input ends.

    Arguments:
        start: makes the repetition, and facts for the first answer.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to standard error

    def answer(row: dict[str, Any]) -> None:
        answers.write(json.dumps(row) + "\n")
        answers.flush()

    def timed(function: Callable[[], Any]) -> tuple[dict[str, float], Any]:
        wall, cpu = time.perf_counter(), time.process_time()
        result = function()
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}, result

    def first() -> tuple[Run, dict[str, Any]]:
        run, facts = start()
        run()
        return run, facts

    took, (run, facts) = timed(first)
    run()  # JAX compiles again for what the first call returned
    answer({"first_call_seconds": took["wall"], "first_call_cpu_seconds": took["cpu"], **facts})
    for line in sys.stdin:
        if line.strip() == "run":
            answer(timed(run)[0])
        elif line.strip() == "memory":
            answer({"bytes": memory(run)})

"""Systems that take turns on one thread, so that whatever else the machine does slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import TypeAlias

Step: TypeAlias = Callable[[], object]


def rates(steps: Mapping[str, Step], turns: int, iterations: int) -> dict[str, float]:
    """Iterations for each second of this process's own CPU time, medians over turns.

    Arguments:
        steps: what an iteration of each system does.
        turns: of each system; one more comes first, to warm up.
        iterations: of a turn.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(turns + 1):
        for name, step in steps.items():
            start = time.process_time()
            for _ in range(iterations):
                step()
            if turn:
                seconds[name].append((time.process_time() - start) / iterations)
    return {name: 1 / median(of) for name, of in seconds.items()}

"""How long until a fresh process has its first meta-gradient, without and with the compiler's cache of an earlier one?

python -m benchmarks.first_call --setting pes --num-tasks 16
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from benchmarks.estimates import Estimates, Mode, Setting


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        setting, mode, num_tasks, window: see `Estimates`.
        threads: CPU threads.
        once: measure in this process, with whatever caches there are.
    """

    setting: Setting = "pes"
    mode: Mode = "compiled"
    num_tasks: int = 16
    window: int = 20
    threads: int = 2
    once: bool = False


def cold_and_warm(setting: Setting, mode: Mode, num_tasks: int, window: int, threads: int) -> dict[str, float]:
    """Seconds to the first estimate in a process whose caches are empty, and in the next one, imports aside."""
    options = ["--setting", setting, "--mode", mode, "--num-tasks", num_tasks, "--window", window, "--threads", threads]
    command = [sys.executable, "-m", "benchmarks.first_call", "--once", *map(str, options)]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        caches = {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor", "TRITON_CACHE_DIR": f"{folder}/triton"}
        caches |= {"TORCH_EXTENSIONS_DIR": f"{folder}/extensions", "L2O_CACHE": f"{folder}/l2o"}
        for name in ("cold", "warm"):
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                env={**os.environ, **caches},
                cwd=Path(__file__).parents[1],
            )
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} must end well, but it said:\n{done.stderr[-2000:]}")
            found[f"first_call_{name}_seconds"] = float(json.loads(done.stdout.splitlines()[-1])["seconds"])
    return found


def main(config: Config) -> None:
    """Measure, show."""
    if not config.once:
        print(cold_and_warm(config.setting, config.mode, config.num_tasks, config.window, config.threads))
        return
    torch.set_num_threads(config.threads)
    start = time.perf_counter()
    Estimates(config.setting, config.mode, config.num_tasks, config.window)
    print(json.dumps({"seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main(tyro.cli(Config))

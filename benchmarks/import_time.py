"""What does importing l2o cost beside importing torch?

    python -m benchmarks.import_time --record

New processes, one after the other in turn, each with warm file caches. Seconds are of the CPU, user and system, which
other work on the machine stretches less than those of the clock.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.record import RESULTS, write

PROGRAMS = {
    "nothing": "",
    "import torch": "import torch",
    "import l2o": "import l2o",
    "import l2o; l2o.LearnedOptimizer": "import l2o; l2o.LearnedOptimizer",
    "every part": "import l2o.agents.lifetime, l2o.learners, l2o.training.commands",
}


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        repeats: of each program.
        out: folder of the rows.
        record: keep the rows in benchmarks/results.
    """

    repeats: int = 7
    out: Path = Path("runs/import_time")
    record: bool = False


def measure(program: str) -> tuple[float, float]:
    """Seconds of the CPU and of the clock."""
    began, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-c", program], check=True)
    after = os.times()
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    return spent, time.perf_counter() - began


def run(config: Config) -> Iterator[dict[str, Any]]:
    """A row for each program."""
    for program in PROGRAMS.values():
        measure(program)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in PROGRAMS}
    for _ in range(config.repeats):
        for name, program in PROGRAMS.items():
            found[name].append(measure(program))
    torch = statistics.median(cpu for cpu, _ in found["import torch"])
    for name, seconds in found.items():
        cpu = [one for one, _ in seconds]
        row = {"program": name, "cpu_seconds": statistics.median(cpu), "low": min(cpu), "high": max(cpu)}
        row |= {"wall_seconds": statistics.median(wall for _, wall in seconds)}
        yield row | {"ratio_to_torch": statistics.median(cpu) / torch}


if __name__ == "__main__":
    config = tyro.cli(Config, description=__doc__)
    path = write("import_time", config, run(config), RESULTS if config.record else config.out)
    print(path.read_text())

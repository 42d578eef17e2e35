"""How many inner steps a second does meta-training make?

PES on 64-32-10 perceptrons over digits, batch 64, the per-parameter MLP rule with Adafactor features: every task trains
a pair of networks, so one estimate is 2 x tasks x window inner steps. Wall and CPU time of an estimate are medians over
interleaved repeats; the first call, compilation included, stands apart.

    python -m benchmarks.meta_throughput
    python -m benchmarks.meta_throughput --num-tasks 16 --modes eager --record
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.record import RESULTS, write
from l2o.estimators import PES, Problems, Truncation
from l2o.rules import MLPRule
from l2o.tasks import MLPFamily
from l2o.training.meta_trainer import theta_of
from l2o.types import seeded


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        num_tasks: tasks side by side, each with a pair of networks.
        modes: eager, compiled.
        window: inner steps of an estimate.
        repeats: estimates timed in each setting.
        threads: CPU threads.
        out: folder of the rows.
        record: keep the rows in benchmarks/results.
    """

    num_tasks: tuple[int, ...] = (16, 64)
    modes: tuple[str, ...] = ("eager", "compiled")
    window: int = 20
    repeats: int = 7
    threads: int = 2
    out: Path = Path("runs/meta_throughput")
    record: bool = False


class Timed:
    """One setting: its estimator at work, and the times of its estimates."""

    def __init__(self, mode: str, num_tasks: int, window: int) -> None:
        torch.manual_seed(0)
        rule = MLPRule()
        truncation = Truncation(window=window, horizon=1000 * window)
        problems = Problems(rule, MLPFamily(), num_tasks, truncation=truncation, compile=mode == "compiled")
        self.mode, self.num_tasks, self.window = mode, num_tasks, window
        self.theta, self.estimator, self.generator = theta_of(rule), PES(problems), seeded(0)
        self.state = self.estimator.init(self.theta, self.generator)
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.first = self.run()[0]

    def run(self) -> tuple[float, float]:
        """One estimate: wall and CPU seconds."""
        wall, cpu = time.perf_counter(), time.process_time()
        _, self.state = self.estimator.estimate(self.theta, self.state, self.generator)
        return time.perf_counter() - wall, time.process_time() - cpu

    def repeat(self) -> None:
        """One timed estimate."""
        wall, cpu = self.run()
        self.wall.append(wall)
        self.cpu.append(cpu)

    def row(self) -> dict[str, Any]:
        """The setting's numbers."""
        steps = 2 * self.num_tasks * self.window
        return {
            "mode": self.mode,
            "num_tasks": self.num_tasks,
            "inner_steps_per_second": steps / median(self.wall),
            "cpu_microseconds_per_inner_step": 1e6 * median(self.cpu) / steps,
            "first_call_seconds": self.first,
        }


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a setting; repeats of all settings are interleaved."""
    settings = [Timed(mode, num, config.window) for mode in config.modes for num in config.num_tasks]
    for _ in range(config.repeats):
        for setting in settings:
            setting.repeat()
    for setting in settings:
        yield setting.row()


def main(config: Config) -> None:
    """Measure, write, show."""
    torch.set_num_threads(config.threads)
    rows = list(run(config))
    for folder in [config.out, RESULTS] if config.record else [config.out]:
        write("meta_throughput", config, rows, folder)
    shown = Table("mode", "tasks", "inner steps / s", "CPU us / inner step", "first call, s")
    for row in rows:
        numbers = (row["inner_steps_per_second"], row["cpu_microseconds_per_inner_step"], row["first_call_seconds"])
        shown.add_row(row["mode"], str(row["num_tasks"]), *(f"{number:.4g}" for number in numbers))
    Console().print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

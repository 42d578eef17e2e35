"""What does an inner step of meta-training cost, ours and others', and how far is it from the least it can?

Two settings on 64-32-10 perceptrons, batch 64: PES with the per-parameter MLP rule (against google's
learned_optimization), and truncated backpropagation through the LSTM rule (against `higher` and TorchOpt). Repeats of
all systems alternate, half a second each; wall and CPU time of an estimate are medians; the first call, compilation
included, stands apart.

    python -m benchmarks.meta_throughput --peers /path/to/peers --record
    python -m benchmarks.meta_throughput --num-tasks 4 --modes eager --settings pes --repeats 2
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.estimates import TITLES, Estimates, Mode, Setting, inner_steps
from benchmarks.first_call import cold_and_warm
from benchmarks.floors import FLOAT, RULES, inner_step, parameters
from benchmarks.machine import rates
from benchmarks.peers.client import Peer, Peers, default_peers
from benchmarks.record import keep, readable
from l2o.memory import keep_freed_memory


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        settings: pes, backprop.
        num_tasks: tasks of an estimate.
        modes: of ours: eager, compiled.
        window: inner steps of an estimate.
        repeats: of the timing of each system.
        seconds: how long a repeat goes on at least, estimate after estimate, as meta-training does: the first one finds
            the caches full of the other systems' numbers.
        threads: CPU threads.
        peers: folder of the other systems, see `benchmarks/peers/client.py`; left out without.
        keep_freed: whether this process keeps its freed memory, as that of the command `l2o` does.
        fresh: also time our first call in fresh processes, with empty caches and with those of the process before.
        out: folder of the rows.
        record: keep the rows in benchmarks/results.
    """

    settings: tuple[Setting, ...] = ("pes", "backprop")
    num_tasks: tuple[int, ...] = (16, 64)
    modes: tuple[Mode, ...] = ("eager", "compiled")
    window: int = 20
    repeats: int = 7
    seconds: float = 0.5
    threads: int = 2
    peers: Path | None = field(default_factory=default_peers)
    keep_freed: bool = True
    fresh: bool = False
    out: Path = Path("runs/meta_throughput")
    record: bool = False


class System:
    """One system in one setting, and the times of its estimates."""

    def __init__(self, name: str, setting: Setting, num_tasks: int, work: Estimates | Peer, first: float) -> None:
        self.name, self.setting, self.num_tasks = name, setting, num_tasks
        self.work, self.first = work, first
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def repeat(self, seconds: float) -> None:
        """The mean time of an estimate over at least so long."""
        times = []
        while not times or sum(wall for wall, _ in times) < seconds:
            times.append(self.work.run())
        self.wall.append(mean(wall for wall, _ in times))
        self.cpu.append(mean(cpu for _, cpu in times))

    def row(self, window: int) -> dict[str, Any]:
        """Medians an inner step, and the floor on one core."""
        steps = inner_steps(self.setting, self.num_tasks, window)
        wall, cpu = median(self.wall) / steps, median(self.cpu) / steps
        floor = floor_of(self.setting, self.num_tasks)
        return {
            "system": self.name,
            "setting": self.setting,
            "num_tasks": self.num_tasks,
            "inner_steps_per_second": 1 / wall,
            "wall_microseconds_per_inner_step": 1e6 * wall,
            "cpu_microseconds_per_inner_step": 1e6 * cpu,
            "first_call_seconds": self.first,
            "floor_operations_microseconds": 1e6 * floor["operations"],
            "floor_memory_microseconds": 1e6 * floor["memory"],
            "floor_microseconds": 1e6 * floor["seconds"],
            "cpu_over_floor": cpu / floor["seconds"],
            **({"peer": self.work.facts} if isinstance(self.work, Peer) else {}),
        }


def floor_of(setting: Setting, num_tasks: int) -> dict[str, float]:
    """One inner step on one core, all networks being visited before any is visited again."""
    networks = (2 if setting == "pes" else 1) * num_tasks
    rule = RULES["mlp" if setting == "pes" else "lstm"]
    return inner_step(setting).floor(resident=networks * parameters() * (rule.resident + FLOAT))


def start(config: Config, setting: Setting, num_tasks: int, stack: ExitStack) -> Iterator[System]:
    """All systems of a setting, each after its first call."""
    for mode in config.modes:
        ours = Estimates(setting, mode, num_tasks, config.window)
        yield System(ours.name, setting, num_tasks, ours, ours.first_call_seconds)
    peers = Peers(config.peers, config.threads)
    if setting == "pes":
        sizes = ("--num-tasks", num_tasks, "--trunc", config.window)
        found = {"learned_optimization": peers.start("jax_meta", *sizes, venv="venv_jax")}
    else:
        found = {}
        for library in ("higher", "torchopt"):
            sizes = ("--num-tasks", num_tasks, "--window", config.window)
            found[library] = peers.start("unroll_torch", "--library", library, *sizes, venv="venv_torch")
    for name, peer in found.items():
        if peer is not None:
            stack.callback(peer.close)
            yield System(name, setting, num_tasks, peer, peer.facts["first_call_seconds"])


def with_ratios(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of one setting and number of tasks; each with what our fastest takes as its share."""
    ours = [row for row in rows if row["system"].startswith("l2o")]
    for row in rows:
        for clock in ("wall", "cpu"):
            key = f"{clock}_microseconds_per_inner_step"
            if ours:
                row[f"{clock}_over_ours"] = row[key] / min(mine[key] for mine in ours)
        yield row


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a system, setting and number of tasks; repeats of all systems alternate."""
    with ExitStack() as stack:
        groups = [list(start(config, setting, num, stack)) for setting in config.settings for num in config.num_tasks]
        for _ in range(config.repeats):
            for system in (system for group in groups for system in group):
                system.repeat(config.seconds)
    for group in groups:
        for row in with_ratios([system.row(config.window) for system in group]):
            mode = row["system"].removeprefix("l2o ")
            if config.fresh and mode in config.modes:
                row |= cold_and_warm(row["setting"], mode, row["num_tasks"], config.window, config.threads)
            yield {**row, **rates(1)}


def main(config: Config) -> None:
    """Measure, write, show."""
    if config.keep_freed:
        keep_freed_memory()
    torch.set_num_threads(config.threads)
    rows = list(run(config))
    keep("meta_throughput", config, rows)
    columns = {
        "wall us": "wall_microseconds_per_inner_step",
        "CPU us": "cpu_microseconds_per_inner_step",
        "wall / ours": "wall_over_ours",
        "CPU / ours": "cpu_over_ours",
        "floor us": "floor_microseconds",
        "CPU / floor": "cpu_over_floor",
        "first s": "first_call_seconds",
        "cold s": "first_call_cold_seconds",
        "warm s": "first_call_warm_seconds",
    }
    columns = {title: key for title, key in columns.items() if any(key in row for row in rows)}
    shown = Table("setting", "tasks", "system", *columns, title="an inner step")
    for row in rows:
        numbers = [readable(row[key]) if key in row else "" for key in columns.values()]
        shown.add_row(TITLES[row["setting"]], str(row["num_tasks"]), row["system"], *numbers)
    Console(width=140).print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

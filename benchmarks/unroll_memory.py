"""How much memory does a meta-gradient take, by estimator, and with steps made again in place of stored ones?

Unrolls of 64-32-10 perceptrons, each in a process of its own: by how much its resident set grows during one estimate,
at most, after a first one. The networks in training and their states are there before and not counted. The floor is
what cannot be done without: for backpropagation parameters and state after every step of the window, for PES those
after one step.

    python -m benchmarks.unroll_memory --peers /path/to/peers --record
    python -m benchmarks.unroll_memory --num-tasks 1 --window 5
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.estimates import Estimates, Mode, RuleName, Setting
from benchmarks.floors import FLOAT, parameters
from benchmarks.peers.client import Peers, default_peers
from benchmarks.peers.protocol import memory
from benchmarks.record import keep, readable

MEBIBYTE = 2**20

STATE_FLOATS: dict[RuleName, int] = {"lstm": 80, "mlp": 4}
"""Numbers that a rule remembers of each parameter."""


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        num_tasks: tasks side by side.
        rules: lstm, mlp.
        modes: eager, compiled.
        window: inner steps.
        threads: CPU threads.
        peers: folder of the other systems, see `benchmarks/peers/client.py`; left out without.
        out: folder of the rows.
        record: keep the rows in benchmarks/results.
        only: measure one case in this process: estimator, rule, mode, number of tasks.
    """

    num_tasks: tuple[int, ...] = (4, 16)
    rules: tuple[RuleName, ...] = ("lstm", "mlp")
    modes: tuple[Mode, ...] = ("eager",)
    window: int = 20
    threads: int = 2
    peers: Path | None = field(default_factory=default_peers)
    out: Path = Path("runs/unroll_memory")
    record: bool = False
    only: tuple[str, RuleName, Mode, int] | None = None


SETTING: dict[str, tuple[Setting, bool]] = {
    "backprop": ("backprop", False),
    "backprop, recompute": ("backprop", True),
    "PES": ("pes", False),
}
"""Estimator and whether it recomputes."""


def measure(config: Config, estimator: str, rule: RuleName, mode: Mode, num_tasks: int) -> int:
    """Bytes of one estimate, in this process."""
    setting, recompute = SETTING[estimator]
    estimates = Estimates(setting, mode, num_tasks, config.window, recompute, rule)
    return max(memory(estimates.run) for _ in range(2))


def in_process(config: Config, estimator: str, rule: RuleName, mode: Mode, num_tasks: int) -> int:
    """The same in a process of its own."""
    options = ["--window", config.window, "--threads", config.threads, "--only", estimator, rule, mode, num_tasks]
    command = [sys.executable, "-m", "benchmarks.unroll_memory", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} must end well, but it said:\n{done.stderr[-2000:]}")
    return int(json.loads(done.stdout.splitlines()[-1])["bytes"])


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a system, estimator, rule and number of tasks."""
    peers = Peers(config.peers, config.threads)
    for num in config.num_tasks:
        for rule in config.rules:
            for estimator in SETTING:
                for mode in config.modes:
                    taken = in_process(config, estimator, rule, mode, num)
                    yield _row(f"l2o {mode}", estimator, rule, num, taken, floor(config, estimator, rule, num))
        for library in ("higher", "torchopt") if "lstm" in config.rules else ():
            sizes = ("--num-tasks", num, "--window", config.window)
            peer = peers.start("unroll_torch", "--library", library, *sizes, venv="venv_torch")
            if peer is not None:
                least = floor(config, "backprop", "lstm", 1)
                yield _row(f"{library}, a task at a time", "backprop", "lstm", num, peer.memory(), least)
                peer.close()


def floor(config: Config, estimator: str, rule: RuleName, num_tasks: int) -> float:
    """Bytes that have to be held at once, for tasks side by side."""
    network = parameters() * (STATE_FLOATS[rule] + 1) * FLOAT
    return network * num_tasks * (2 if estimator == "PES" else config.window)


def _row(system: str, estimator: str, rule: RuleName, num_tasks: int, taken: int, least: float) -> dict[str, Any]:
    return {
        "system": system,
        "estimator": estimator,
        "rule": rule,
        "num_tasks": num_tasks,
        "mebibytes": taken / MEBIBYTE,
        "floor_mebibytes": least / MEBIBYTE,
        "over_floor": taken / least,
    }


def main(config: Config) -> None:
    """Measure, write, show."""
    torch.set_num_threads(config.threads)
    if config.only is not None:
        print(json.dumps({"bytes": measure(config, *config.only)}))
        return
    rows = list(run(config))
    keep("unroll_memory", config, rows)
    shown = Table(
        "tasks", "rule", "estimator", "system", "MiB", "floor", "over floor", title="memory of a meta-gradient"
    )
    for row in rows:
        numbers = [readable(row[key]) for key in ("mebibytes", "floor_mebibytes", "over_floor")]
        shown.add_row(str(row["num_tasks"]), row["rule"], row["estimator"], row["system"], *numbers)
    Console(width=140).print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

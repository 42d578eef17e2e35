"""What does a step of an optimizer cost a parameter, ours and others', and how far is it from the least it can?

Steps from given gradients on equal, nearly square matrices. Repeats of all optimizers alternate; wall and CPU time are
medians. Between two steps of one optimizer the others have used the caches, as a model does in training; the floor
takes the bandwidth of the fastest cache that holds the optimizer's own numbers. Ours go through `LearnedOptimizer`,
untrained: what a step costs does not depend on its weights.

    python -m benchmarks.step_time --peers /path/to/peers --record
    python -m benchmarks.step_time --sizes 100000 --tensors 1 --rules mlp velo --repeats 3
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import Parameter

from benchmarks.floors import FLOAT, RULES, Work, orthogonalization
from benchmarks.machine import rates
from benchmarks.peers.client import Peer, Peers, default_peers
from benchmarks.peers.protocol import shapes
from benchmarks.record import keep, readable
from l2o import LearnedOptimizer
from l2o.rules import Adam, LSTMRule, MatrixRule, MLPRule, UpdateRule, VeLO

MAKE_RULE: dict[str, Callable[[], UpdateRule]] = {
    "adam": Adam,
    "mlp": MLPRule,
    "mlp32": lambda: MLPRule(hidden_size=32),
    "matrix": MatrixRule,
    "matrix-orthogonal": lambda: MatrixRule(orthogonalize=True),
    "velo": VeLO,
    "lstm": LSTMRule,
}
TORCH: dict[str, Callable[[list[Parameter]], torch.optim.Optimizer]] = {
    "AdamW foreach": lambda params: torch.optim.AdamW(params, lr=1e-4, foreach=True),
    "AdamW fused": lambda params: torch.optim.AdamW(params, lr=1e-4, fused=True),
    "Muon": lambda params: torch.optim.Muon(params, lr=1e-4),
}
PEERS = {
    "PyLO": ("pylo_step", "venv_torch", {"adafac": "mlp32", "celo2": "matrix", "velo": "velo"}),
    "JAX": ("jax_step", "venv_jax", {"adamw": "adam", "adafac": "mlp", "celo2": "matrix", "velo": "velo"}),
}
"""Script, environment, and for each of its optimizers the rule of ours that computes the same kind of step."""


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        sizes: parameters in all; 100000000 takes 16 GB.
        tensors: matrices they are in.
        rules: of ours.
        compile: also time ours with `compile=True`.
        slow_limit: largest size for the LSTM, Muon and orthogonalisation.
        peer_limit: largest size for the other systems.
        peer_rules: of theirs: adamw, adafac, celo2, velo (whose LSTM is 512 wide, ours 64).
        repeats: steps timed of each optimizer.
        threads: CPU threads.
        peers: folder of the other systems, see `benchmarks/peers/client.py`; left out without.
        out: folder of the rows.
        record: keep the rows in benchmarks/results.
    """

    sizes: tuple[int, ...] = (100_000, 1_000_000, 10_000_000)
    tensors: tuple[int, ...] = (1, 200)
    rules: tuple[str, ...] = ("adam", "mlp", "mlp32", "matrix", "matrix-orthogonal", "velo", "lstm")
    compile: bool = False
    slow_limit: int = 1_000_000
    peer_limit: int = 10_000_000
    peer_rules: tuple[str, ...] = ("adamw", "adafac", "celo2")
    repeats: int = 5
    threads: int = 1
    peers: Path | None = field(default_factory=default_peers)
    out: Path = Path("runs/step_time")
    record: bool = False


class Steps:
    """An optimizer of this process at work."""

    def __init__(self, make: Callable[[list[Parameter]], torch.optim.Optimizer], sizes: list[tuple[int, int]]) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(shape: Sequence[int], scale: float) -> Tensor:
            return scale * torch.randn(shape, generator=generator)

        params = [Parameter(draw(shape, 0.05)) for shape in sizes]
        for p in params:
            p.grad = draw(p.shape, 0.01)
        self._optimizer = make(params)
        self._arguments: dict[str, Any] = {}
        if isinstance(self._optimizer, LearnedOptimizer):
            self._arguments = {"loss": torch.tensor(1.0)}
        self.first_call_seconds = self.run()[0]
        self.run()
        num = sum(p.numel() for p in params)
        state = self._optimizer.state
        once = {x.data_ptr(): x.numel() for p in params for x in state[p].values() if isinstance(x, Tensor)}
        self.state_floats = sum(once.values()) / num

    def run(self) -> tuple[float, float]:
        """One step: wall and CPU seconds."""
        wall, cpu = time.perf_counter(), time.process_time()
        self._optimizer.step(**self._arguments)
        return time.perf_counter() - wall, time.process_time() - cpu


class Timed:
    """One optimizer, what its floor is, and the times of its steps."""

    def __init__(
        self, name: str, work: Steps | Peer, first: float, state_floats: float, floor: Work, like: str = ""
    ) -> None:
        self.name, self.work, self.first, self.state_floats = name, work, first, state_floats
        self.floor, self.like = floor, like
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def repeat(self) -> None:
        """One timed step."""
        wall, cpu = self.work.run()
        self.wall.append(wall)
        self.cpu.append(cpu)

    def row(self, num: int, threads: int) -> dict[str, Any]:
        """Medians a parameter in nanoseconds; CPU time against the floor on one core, wall time against all cores'."""
        wall, cpu = median(self.wall) / num, median(self.cpu) / num
        one, all_cores = ((self.floor * num).floor(count) for count in (1, threads))
        return {
            "optimizer": self.name,
            "like": self.like,
            "wall_ns": 1e9 * wall,
            "cpu_ns": 1e9 * cpu,
            "state_floats": self.state_floats,
            "first_call_seconds": self.first,
            "floor_operations_ns": 1e9 * one["operations"] / num,
            "floor_memory_ns": 1e9 * one["memory"] / num,
            "floor_ns": 1e9 * one["seconds"] / num,
            "cpu_over_floor": cpu * num / one["seconds"],
            "wall_over_floor": wall * num / all_cores["seconds"],
            **({"peer": self.work.facts} if isinstance(self.work, Peer) else {}),
        }


def floor_of(rule: str, shape: tuple[int, int]) -> Work:
    """The least work on one coordinate of such matrices."""
    products = orthogonalization(*shape)
    if rule == "muon":  # parameter, gradient and momentum; the direction is written and read
        return Work(vector=8, half=products, traffic=7 * FLOAT, resident=4 * FLOAT)
    work = RULES[rule.split("-")[0]]
    return replace(work, matrix=work.matrix + products) if rule.endswith("orthogonal") else work


def ours(config: Config, size: int, tensors: int) -> Iterator[Timed]:
    """Our optimizers and torch's."""
    sizes = shapes(size, tensors)
    slow = size > config.slow_limit
    for name, make in TORCH.items():
        if not (name == "Muon" and (slow or not hasattr(torch.optim, "Muon"))):
            steps = Steps(make, sizes)
            floor = floor_of("muon" if name == "Muon" else "adam", sizes[0])
            yield Timed(f"torch {name}", steps, steps.first_call_seconds, steps.state_floats, floor)
    for rule in config.rules:
        if slow and rule in ("lstm", "matrix-orthogonal"):
            continue
        for compiled in (False, True) if config.compile else (False,):
            steps = Steps(partial(LearnedOptimizer, rule=MAKE_RULE[rule](), compile=compiled), sizes)
            name = f"l2o {rule}" + " compiled" * compiled
            yield Timed(name, steps, steps.first_call_seconds, steps.state_floats, floor_of(rule, sizes[0]), rule)


def theirs(config: Config, size: int, tensors: int, stack: ExitStack) -> Iterator[Timed]:
    """The other systems' optimizers, each in its own process."""
    if size > config.peer_limit:
        return
    peers = Peers(config.peers, config.threads)
    for system, (script, venv, rules) in PEERS.items():
        for rule, like in rules.items():
            if rule not in config.peer_rules:
                continue
            peer = peers.start(script, "--rule", rule, "--size", size, "--tensors", tensors, venv=venv)
            if peer is not None:
                stack.callback(peer.close)
                first, state = peer.facts["first_call_seconds"], peer.facts["state_floats_per_param"]
                yield Timed(f"{system} {rule}", peer, first, state, floor_of(like, shapes(size, tensors)[0]), like)


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row an optimizer, size and number of tensors; repeats of all optimizers of a size alternate."""
    for size in config.sizes:
        for tensors in config.tensors:
            num = sum(rows * columns for rows, columns in shapes(size, tensors))
            with ExitStack() as stack:
                optimizers = [*ours(config, size, tensors), *theirs(config, size, tensors, stack)]
                for _ in range(config.repeats):
                    for optimizer in optimizers:
                        optimizer.repeat()
            rows = [optimizer.row(num, config.threads) for optimizer in optimizers]
            adamw = next(row for row in rows if row["optimizer"] == "torch AdamW foreach")
            for row in rows:
                same = [mine for mine in rows if mine["like"] == row["like"] and mine["optimizer"].startswith("l2o")]
                yield {
                    "size": num,
                    "tensors": tensors,
                    **row,
                    "cpu_over_adamw": row["cpu_ns"] / adamw["cpu_ns"],
                    **({"cpu_over_ours": row["cpu_ns"] / min(mine["cpu_ns"] for mine in same)} if same else {}),
                    **rates(1),
                }


def main(config: Config) -> None:
    """Measure, show a size at a time, write."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    rows = list(run(config))
    keep("step_time", config, rows)
    columns = {
        "wall ns": "wall_ns",
        "CPU ns": "cpu_ns",
        "CPU / AdamW foreach": "cpu_over_adamw",
        "CPU / ours": "cpu_over_ours",
        "state floats": "state_floats",
        "floor ns": "floor_ns",
        "CPU / floor": "cpu_over_floor",
        "first s": "first_call_seconds",
    }
    shown = Table("parameters", "tensors", "optimizer", *columns, title="a step, for each parameter")
    for row in rows:
        numbers = [readable(row[key]) if key in row else "" for key in columns.values()]
        shown.add_row(f"{row['size']:,}", str(row["tensors"]), row["optimizer"], *numbers)
    Console(width=140).print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

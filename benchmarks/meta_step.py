"""What does a meta-iteration of a learner cost, ours, learn2learn's, higher's, TorchOpt's and one written by hand?

    python -m benchmarks.meta_step --peers FOLDER --record

A meta-iteration: inner steps of SGD for every task, query loss, gradient of second order, a step of Adam. All begin
with the same weights, see the same tasks, and are checked to have the same gradient; then their repeats alternate.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.peers.client import Peer, Peers, default_peers
from benchmarks.peers.meta_problems import Batch, conv4, images, sinusoid_network, sinusoids
from benchmarks.peers.protocol import memory
from benchmarks.record import keep, readable
from l2o.learners import MAML, Adaptation, Conv4, PrototypicalNetwork, meta_grad
from l2o.rules import SGD
from l2o.tasks.episodes import Episode, Examples


@dataclass(frozen=True)
class Case:
    """One kind of meta-iteration."""

    problem: Literal["sinusoid", "conv4", "proto"]
    steps: int
    num_tasks: int
    shot: int
    query: int
    inner_lr: float
    libraries: tuple[str, ...] = ("learn2learn", "higher", "torchopt", "hand")
    modes: tuple[str, ...] = ("loop",)

    @property
    def name(self) -> str:
        """For tables."""
        return (
            self.problem
            if not self.steps
            else f"{self.problem}, {self.steps} steps"
            if self.steps > 1
            else (f"{self.problem}, 1 step")
        )


BATCHED = ("vmap", "traced", "compiled")
CASES = (
    Case("sinusoid", 1, 25, 10, 10, 0.01, modes=BATCHED),
    Case("sinusoid", 5, 25, 10, 10, 0.01, modes=BATCHED),
    Case("conv4", 5, 4, 1, 15, 0.1),
    Case("proto", 0, 4, 1, 15, 0.1, libraries=("learn2learn", "hand")),
)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        rounds: alternating repeats.
        seconds: least length of a repeat.
        threads: CPU threads.
        peers: folder of the other systems, see `benchmarks/peers/client.py`; left out without.
        out: folder of the rows.
        record: keep the rows in benchmarks/results.
        only: measure the memory of one of our cases in this process: its number.
    """

    rounds: int = 9
    seconds: float = 1.0
    threads: int = 1
    peers: Path | None = field(default_factory=default_peers)
    out: Path = Path("runs/meta_step")
    record: bool = False
    only: int | None = None


def ours(case: Case, mode: str) -> tuple[Callable[[], None], dict[str, float]]:
    """Our meta-iteration, and the loss and gradient norm of the first."""
    torch.manual_seed(0)
    adaptation, batch = _problem(case)
    episodes = Episode(Examples(batch.x, batch.y), Examples(batch.x_query, batch.y_query))
    outer = torch.optim.Adam(adaptation.learner.parameters(), lr=1e-3, fused=True)
    trained = {name: p for name, p in adaptation.named_parameters() if p.requires_grad}
    batching = "loop" if mode == "loop" else "vmap"
    how = {"compile": mode == "compiled", "trace": mode == "traced"}

    def gradient() -> float:
        theta = {name: p.detach() for name, p in trained.items()}
        found = meta_grad(adaptation, episodes, theta, batching, **how)
        for name, p in trained.items():
            p.grad = found.grads[name]
        return float(found.losses.mean())

    def run() -> None:
        gradient()
        outer.step()

    loss = gradient()
    norm = torch.stack([p.grad.norm() for p in trained.values() if p.grad is not None]).norm()
    return run, {"loss": loss, "grad_norm": float(norm)}


def _problem(case: Case) -> tuple[Adaptation, Batch]:
    """The learner with the peers' initial weights, and their tasks."""
    if case.problem == "sinusoid":
        adaptation = Adaptation(MAML(sinusoid_network()), SGD(case.inner_lr), case.steps)
        batch = sinusoids(case.num_tasks, case.shot, case.query)
    else:
        theirs = conv4(5 if case.problem == "conv4" else 0)
        network = copied(theirs, Conv4(5 if case.problem == "conv4" else 0))
        batch = images(case.num_tasks, 5, case.shot, case.query)
        if case.problem == "proto":
            return Adaptation(PrototypicalNetwork(network, 5)), batch
        adaptation = Adaptation(MAML(network), SGD(case.inner_lr), case.steps)
    assert adaptation.rule is not None
    adaptation.rule.requires_grad_(False)
    return adaptation, batch


def copied(source: nn.Module, target: nn.Module) -> nn.Module:
    """`target` with the weights of `source`: convolution, normalisation, convolution, ..., head."""
    layers = [m for m in source.modules() if list(m.parameters(recurse=False))]
    convs, norms = layers[0::2], layers[1::2]
    mine = [*target.convs, *target.norms, target.head]  # type: ignore[misc]
    for m, s in zip(mine, [*convs[:4], *norms[:4], *layers[8:]], strict=False):
        m.load_state_dict(s.state_dict(), strict=False)
    return target


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a case and system."""
    for i, case in enumerate(CASES):
        systems: dict[str, Callable[[], tuple[float, float]]] = {}
        peers, facts, bytes_of = {}, {}, {}
        for library in case.libraries:
            peer = _peer(config, case, library)
            if peer is not None:
                peers[library], facts[library], systems[library] = peer, peer.facts, peer.run
        for mode in case.modes:
            step, facts[f"l2o {mode}"] = ours(case, mode)
            step()
            systems[f"l2o {mode}"] = lambda step=step: _timed(step)
        _check(case, facts)
        times = alternate(systems, config.rounds, config.seconds)
        if case.problem == "conv4":
            bytes_of = {library: max(peer.memory() for _ in range(3)) for library, peer in peers.items()}
            bytes_of["l2o loop"] = in_process(config, i)
        for peer in peers.values():
            peer.close()
        base = median(wall for wall, _ in times["learn2learn"]) if "learn2learn" in times else float("nan")
        for system, found in times.items():
            wall, cpu = (median(of) for of in zip(*found, strict=True))
            row = {"case": case.name, "system": system, "wall": wall, "cpu": cpu}
            row["times_learn2learn"] = base / wall if base == base else None
            row["mebibytes"] = bytes_of[system] / 2**20 if system in bytes_of else None
            yield row


def _peer(config: Config, case: Case, library: str) -> Peer | None:
    sizes = ("--steps", case.steps, "--num-tasks", case.num_tasks, "--shot", case.shot, "--query", case.query)
    options = ("--library", library, "--problem", case.problem, "--inner-lr", case.inner_lr, *sizes)
    return Peers(config.peers, config.threads).start("meta_torch", *options, venv="venv_torch")


def _check(case: Case, facts: dict[str, dict[str, Any]]) -> None:
    """All must have computed the same. Prototypes: systems that normalise support and query together stand apart."""
    if case.problem == "proto":
        facts = {name: fact for name, fact in facts.items() if name != "hand"}
    values = {name: (fact["loss"], fact["grad_norm"]) for name, fact in facts.items()}
    first = next(iter(values.values()))
    for value in values.values():
        if any(abs(a - b) > 1e-3 * abs(b) for a, b in zip(value, first, strict=True)):
            raise RuntimeError(f"all systems must have one gradient in {case.name}; got loss and norm {values}.")


def _timed(step: Callable[[], None]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - cpu


def alternate(
    systems: dict[str, Callable[[], tuple[float, float]]], rounds: int, seconds: float
) -> dict[str, list[tuple[float, float]]]:
    """Mean wall and CPU seconds of an iteration, for each system and round; systems take turns."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in systems}
    order = list(systems)
    for i in range(rounds):
        for name in order[i % len(order) :] + order[: i % len(order)]:
            gc.collect()
            spent: list[tuple[float, float]] = []
            while sum(wall for wall, _ in spent) < seconds:
                spent.append(systems[name]())
            times[name].append(tuple(sum(of) / len(spent) for of in zip(*spent, strict=True)))  # type: ignore[arg-type]
    return times


def in_process(config: Config, number: int) -> int:
    """Bytes that our case takes, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.meta_step", "--only", str(number), "--threads", str(config.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return int(json.loads(done.stdout.splitlines()[-1])["bytes"])


def main(config: Config) -> None:
    """Measure, write, show."""
    torch.set_num_threads(config.threads)
    if config.only is not None:
        case = CASES[config.only]
        step, _ = ours(case, case.modes[0])
        for _ in range(2):
            step()
        print(json.dumps({"bytes": max(memory(step) for _ in range(3))}))
        return
    rows = list(run(config))
    keep("meta_step", config, rows)
    shown = Table("case", "system", "ms", "CPU ms", "x learn2learn", "MiB", title="a meta-iteration")
    for row in rows:
        numbers = [readable(1e3 * row["wall"]), readable(1e3 * row["cpu"])]
        numbers += ["" if row[key] is None else readable(row[key]) for key in ("times_learn2learn", "mebibytes")]
        shown.add_row(row["case"], row["system"], *numbers)
    Console(width=120).print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

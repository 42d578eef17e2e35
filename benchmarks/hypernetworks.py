"""How fast is a step of training a hypernetwork that makes the weights of 16 tasks, beside hypnettorch?

    python -m benchmarks.hypernetworks --peer PATH --record

Workload: 16 codes of 64 numbers, from each the 1,761 weights of a perceptron 1-40-40-1, by layers of 100 and 100 units:
full (a head for each tensor) and chunked (pieces of 100, told apart by 8 numbers); the squared error on 20 points a
task, its gradient, a step of Adam. The peer (https://github.com/chrhenning/hypnettorch, commit 12133c0; PATH is a
clone) makes the weights of all codes at once and then takes task after task, as its interface asks for.

Rates are iterations for each second of this process's own CPU time, on one thread, medians over turns that the systems
take one after the other; a turn before them, in which the compiler works, does not count. Other load on the machine
slows all, through caches, and is told.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.func import functional_call, grad, vmap

from benchmarks.record import keep
from benchmarks.turns import Step, rates
from l2o.compiled import compiled
from l2o.learners import MLP
from l2o.learners.black_box.weight_generator import WeightGenerator
from l2o.recording import traced

Gradient: TypeAlias = Callable[..., dict[str, Tensor]]

NUM_TASKS, NUM_POINTS, NUM_CODE, HIDDEN, CHUNK, NUM_CHUNK = 16, 20, 64, (100, 100), 100, 8


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        peer: a clone of hypnettorch; None to leave it out.
        turns: of each system.
        iterations: of a turn.
        fused: whether Adam, of all systems, is torch's fused one.
        out: folder of the rows.
        record: keep the rows in benchmarks/results.
    """

    peer: Path | None = None
    turns: int = 10
    iterations: int = 20
    fused: bool = True
    out: Path = Path("runs/hypernetworks")
    record: bool = False


def ours(chunk: int | None, config: Config) -> Step:
    """A step of `WeightGenerator`, its target network run on all tasks side by side."""
    torch.manual_seed(0)
    network = MLP((1, 40, 40, 1))
    generator = WeightGenerator(network, NUM_CODE, HIDDEN, chunk, NUM_CHUNK)
    x, y, codes = data()
    answer = vmap(lambda weights, x: functional_call(network, weights, (x,)))
    return stepper(generator, lambda: (answer(generator(codes), x) - y).square().mean(), config.fused)


def recorded(chunk: int | None, config: Config) -> Step:
    """The same, its gradient recorded once and played back, as `l2o learn --trace` does."""
    return by_gradient(chunk, config, traced)


def through_compiler(chunk: int | None, config: Config) -> Step:
    """The same, its gradient fused by torch's compiler, as `l2o learn --compile` does."""

    def fuse(gradient: Gradient, generator: WeightGenerator) -> Gradient:
        return compiled(lambda *given: gradient(*given))

    return by_gradient(chunk, config, fuse)


def by_gradient(chunk: int | None, config: Config, quicken: Callable[[Gradient, WeightGenerator], Gradient]) -> Step:
    """A step of ours by a gradient as a function, quickened."""
    torch.manual_seed(0)
    network = MLP((1, 40, 40, 1))
    generator = WeightGenerator(network, NUM_CODE, HIDDEN, chunk, NUM_CHUNK)
    x, y, codes = data()
    answer = vmap(lambda weights, x: functional_call(network, weights, (x,)))
    theta = dict(generator.named_parameters())
    optimizer = torch.optim.Adam(theta.values(), lr=1e-3, fused=config.fused)

    def loss(theta: dict[str, Tensor], codes: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return (answer(functional_call(generator, theta, (codes,)), x) - y).square().mean()

    gradient = quicken(grad(loss), generator)

    def step() -> None:
        for name, found in gradient({name: p.detach() for name, p in theta.items()}, codes, x, y).items():
            theta[name].grad = found
        optimizer.step()

    return step


def theirs(chunk: int | None, config: Config) -> Step:
    """A step of hypnettorch's HMLP or ChunkedHMLP."""
    from hypnettorch.hnets import HMLP, ChunkedHMLP
    from hypnettorch.mnets.mlp import MLP as Target  # noqa: N811 - there are two

    torch.manual_seed(0)
    target = Target(n_in=1, n_out=1, hidden_layers=[40, 40], no_weights=True, verbose=False)
    shared = {"uncond_in_size": NUM_CODE, "cond_in_size": 0, "layers": HIDDEN, "num_cond_embs": 0, "verbose": False}
    if chunk is None:
        generator = HMLP(target.param_shapes, **shared)
        generator.apply_hyperfan_init(mnet=target)
    else:
        generator = ChunkedHMLP(target.param_shapes, chunk, chunk_emb_size=NUM_CHUNK, **shared)
    x, y, codes = data()

    def loss() -> Tensor:
        made = generator.forward(uncond_input=codes)
        each = [(target.forward(x[i], weights=w) - y[i]).square().mean() for i, w in enumerate(made)]
        return torch.stack(each).mean()

    return stepper(generator, loss, config.fused)


def data() -> tuple[Tensor, Tensor, Tensor]:
    """Points, targets and codes of all tasks."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(2, NUM_TASKS, NUM_POINTS, 1, generator=generator).unbind()
    return x, y, torch.randn(NUM_TASKS, NUM_CODE, generator=generator)


def stepper(module: torch.nn.Module, loss: Callable[[], Tensor], fused: bool) -> Step:
    """A step of Adam on a loss."""
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, fused=fused)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a kind and system."""
    if config.peer is not None:
        sys.path.insert(0, str(config.peer))
    makers = {"l2o": ours, "l2o, recorded": recorded, "l2o, compiled": through_compiler}
    makers |= {} if config.peer is None else {"hypnettorch": theirs}
    for kind, chunk in (("full", None), ("chunked", CHUNK)):
        steps = {name: make(chunk, config) for name, make in makers.items()}
        for name, rate in rates(steps, config.turns, config.iterations).items():
            yield {"kind": kind, "system": name, "per_cpu_second": rate, "load": os.getloadavg()[0]}


def main(config: Config) -> None:
    """Measure, write, show."""
    torch.set_num_threads(1)
    rows = list(run(config))
    keep("hypernetworks", config, rows)
    shown = Table("kind", "system", "iterations / CPU s", "times the peer", "load", title="16 tasks, 1 thread")
    peer = {row["kind"]: row["per_cpu_second"] for row in rows if row["system"] == "hypnettorch"}
    for row in rows:
        ratio = f"{row['per_cpu_second'] / peer[row['kind']]:.2f}" if row["kind"] in peer else ""
        shown.add_row(row["kind"], row["system"], f"{row['per_cpu_second']:.1f}", ratio, f"{row['load']:.1f}")
    Console().print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

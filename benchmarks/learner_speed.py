"""How fast do learners of sequences and of sets train, beside the implementations that people use?

    python -m benchmarks.learner_speed --ntm PATH --tnp PATH --record

The neural Turing machine of 128 rows of 20 and an LSTM of 100 on copying 20 rows of 8 bits, beside pytorch-ntm
(https://github.com/loudinthecloud/pytorch-ntm, commit 3c64937); and the transformer neural process (TNP-D, six layers
of 64) on 16 tasks of 24 context and 13 target points, beside TNP-pytorch (https://github.com/tung-nd/TNP-pytorch,
commit 73df922; its `device='cuda'` is taken back). PATHs are clones; what is None is left out. An iteration is loss,
gradient and the optimizer's step on a batch drawn beforehand; both sides have the same shapes, loss and optimizer.

Rates are iterations for each second of this process's own CPU time, on one thread, medians over turns that the systems
take one after the other; other load on the machine slows both, through caches, and is told.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.memory_problems import exactly
from benchmarks.record import commits, keep, markdown, read
from benchmarks.turns import Step, rates
from l2o.learners import NTM, Adaptation, meta_grad
from l2o.learners.neural_process.transformer import TransformerNeuralProcess
from l2o.tasks import Copy
from l2o.tasks.episodes import Episode
from l2o.tasks.gaussian_process import GaussianProcess
from l2o.tasks.sequences import Sequences, bit_loss
from l2o.types import seeded

LENGTH, BATCHES, NUM_TASKS = 20, (1, 16), 16


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        ntm: a clone of pytorch-ntm.
        tnp: a clone of TNP-pytorch.
        turns: of each system.
        iterations: of a turn.
        out: folder of the rows.
        record: keep the rows in benchmarks/results.
    """

    ntm: Path | None = None
    tnp: Path | None = None
    turns: int = 10
    iterations: int = 5
    out: Path = Path("runs/learner_speed")
    record: bool = False


def our_ntm(drawn: Sequences) -> Step:
    """The machine as `l2o` has it, all steps of a sequence in one call."""
    torch.manual_seed(0)
    model = NTM(drawn.x.shape[-1], drawn.y.shape[-1])
    return copying(model, lambda: bit_loss(model(drawn.x), drawn))


def their_ntm(drawn: Sequences) -> Step:
    """The machine of pytorch-ntm, step by step, as its training does."""
    from ntm.aio import EncapsulatedNTM  # type: ignore[import-not-found]

    torch.manual_seed(0)
    model = EncapsulatedNTM(drawn.x.shape[-1], drawn.y.shape[-1], 100, 1, 1, 128, 20)
    x, y = drawn.x[:, : LENGTH + 1].unbind(1), drawn.y[:, LENGTH + 1 :]

    def loss() -> Tensor:
        model.init_sequence(len(y))
        for step in x:
            model(step)
        answers = torch.stack([model()[0] for _ in range(LENGTH)], dim=1)
        return F.binary_cross_entropy(answers, y)

    return copying(model, loss)


def copying(model: nn.Module, loss: Callable[[], Tensor]) -> Step:
    """A step of pytorch-ntm's optimizer, clipping of each number included."""
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-4, alpha=0.95, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_value_(model.parameters(), 10.0)
        optimizer.step()

    return step


def our_process(episodes: Episode) -> Step:
    """A step as `l2o learn` takes it."""
    torch.manual_seed(0)
    adaptation = Adaptation(TransformerNeuralProcess().train())
    optimizer = torch.optim.Adam(adaptation.parameters(), 5e-4)

    def step() -> None:
        found = meta_grad(adaptation, episodes)
        for name, p in adaptation.named_parameters():
            p.grad = found.grads[name]
        optimizer.step()

    return step


def their_process(episodes: Episode) -> Step:
    """A step of TNP-pytorch's model."""
    sys.modules.setdefault("attrdict", attributes())
    from models.tnpd import TNPD  # type: ignore[import-not-found]

    torch.manual_seed(0)
    model = TNPD(1, 1, 64, 4, 128, 4, 0.0, 6)
    model.create_mask = their_mask
    optimizer = torch.optim.Adam(model.parameters(), 5e-4)
    batch = sys.modules["attrdict"].AttrDict()
    batch.xc, batch.yc, batch.xt, batch.yt = *episodes.support, *episodes.query

    def step() -> None:
        optimizer.zero_grad()
        model(batch).loss.backward()
        optimizer.step()

    return step


def their_mask(batch: Any, autoreg: bool = False) -> tuple[Tensor, int]:
    """Its `create_mask` of independent targets, which makes it on a GPU."""
    context, targets = batch.xc.shape[1], batch.xt.shape[1]
    mask = torch.full((context + targets, context + targets), float("-inf"))
    mask[:, :context] = 0.0
    return mask, targets


def attributes() -> ModuleType:
    """What TNP-pytorch needs of the package attrdict, which no Python of today imports."""

    class AttrDict(dict[str, Any]):
        __getattr__ = dict.__getitem__
        __setattr__ = dict.__setitem__  # type: ignore[assignment]

    module = ModuleType("attrdict")
    module.AttrDict = AttrDict  # type: ignore[attr-defined]
    return module


def cases(config: Config) -> Iterator[tuple[str, dict[str, Step]]]:
    """Workloads by name, and the systems that are to do them."""
    if config.ntm is not None:
        sys.path.insert(0, str(config.ntm))
        for num in BATCHES:
            drawn = Copy(length=exactly(LENGTH)).sample(seeded(0), num)
            yield f"NTM, batch {num}", {"l2o": our_ntm(drawn), "pytorch-ntm": their_ntm(drawn)}
    if config.tnp is not None:
        sys.path.insert(0, str(config.tnp / "regression"))
        episodes = GaussianProcess(context=(24, 24), target=(13, 13)).sample_many(seeded(0), NUM_TASKS)
        yield "TNP-D", {"l2o": our_process(episodes), "TNP-pytorch": their_process(episodes)}


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a workload and system."""
    for name, steps in cases(config):
        found = rates(steps, config.turns, config.iterations)
        for system, rate in found.items():
            more = {"times_the_peer": rate / found[list(found)[-1]], "load": os.getloadavg()[0]}
            yield {"workload": name, "system": system, "per_cpu_second": rate, **more}


def table() -> str:
    """The recorded rows, and those of hypernetworks, in Markdown."""
    rows, other = read("learner_speed"), read("hypernetworks")
    rows += [row | {"workload": f"hypernetwork, {row['kind']}"} for row in other]
    lines = []
    for name in dict.fromkeys(row["workload"] for row in rows):
        of = {row["system"]: row["per_cpu_second"] for row in rows if row["workload"] == name}
        peer = next((system for system in of if not system.startswith("l2o")), None)
        if peer is None:
            continue
        for system, how in (("l2o", ""), ("l2o, recorded", ", traced"), ("l2o, compiled", ", compiled")):
            if system in of:
                lines.append([name + how, peer, f"{of[peer]:.1f}", f"{of[system]:.1f}", f"{of[system] / of[peer]:.2f}"])
    caption = (
        f"Training iterations for each CPU second of one thread, medians of {rows[0]['config']['turns']} turns. "
        f"{rows[0]['machine']}, commits {commits(rows)}."
    )
    return markdown(["workload", "beside", "its rate", "l2o", "times as fast"], lines, caption)


def main(config: Config) -> None:
    """Measure, write, show."""
    torch.set_num_threads(1)
    rows = list(run(config))
    keep("learner_speed", config, rows, by=("workload", "system"))
    shown = Table("workload", "system", "iterations / CPU s", "times the peer", "load", title="1 thread")
    for row in rows:
        numbers = (f"{row['per_cpu_second']:.1f}", f"{row['times_the_peer']:.2f}", f"{row['load']:.1f}")
        shown.add_row(row["workload"], row["system"], *numbers)
    Console().print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

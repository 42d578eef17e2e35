"""What the benchmark of memories trains on, how it judges, and the runs it makes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from l2o.learners import DNC, MANN, NTM, Conv4, MemoryLearner, OnlineLearner
from l2o.learners.memory.learner import inputs_for
from l2o.tasks import AssociativeRecall, Copy, FewShot, LabelShiftedStream, RepeatCopy
from l2o.tasks.data import omniglot_classes
from l2o.tasks.sequences import SequenceSource, bit_loss, bits_wrong
from l2o.tasks.stream import accuracy_by_instance, labels_before, stream_loss
from l2o.types import device_of, tree_to

Scores = dict[str, float]


@dataclass(frozen=True)
class Bits:
    """A problem of bits: what it is trained on, and the sequences of one length each that it is judged by.

    Arguments:
        easy: what training begins with where it has a curriculum; the sequences that it grows to are those of `source`.
    """

    source: SequenceSource
    judged: dict[str, tuple[SequenceSource, ...]]
    easy: Callable[[float], SequenceSource] | None = None

    def loss(self, model: nn.Module, generator: Generator, num: int, grown: float = 1.0) -> Tensor:
        """Of a fresh batch, of sequences that are grown by so much (0 to 1)."""
        source = self.easy(grown) if self.easy and grown < 1 else self.source
        drawn = tree_to(source.sample(generator, num), device_of(model))
        return bit_loss(model(drawn.x), drawn)

    def scores(self, model: nn.Module, generator: Generator, num: int) -> Scores:
        """Bits wrong per sequence, and per step of its answer, for all that is judged."""
        found: Scores = {}
        for name, sources in self.judged.items():
            wrong, steps = 0.0, 0.0
            for source in sources:
                drawn = tree_to(source.sample(generator, max(1, num // len(sources))), device_of(model))
                wrong += float(bits_wrong(model(drawn.x), drawn).mean()) / len(sources)
                steps += float(drawn.mask[0].sum()) / len(sources)
            found |= {f"{name}: bits wrong": wrong, f"{name}: a step": wrong / steps}
        return found

    def mastered(self, loss: float, grown: float) -> bool:
        """Whether sequences that are grown by so much are learned."""
        return loss < MASTERED

    def badness(self, scores: Scores) -> float:
        """What the kept model has least of: wrong bits a step, those beyond the lengths of training too."""
        return sum(value for name, value in scores.items() if name.endswith("a step"))


@dataclass(frozen=True)
class Characters:
    """Omniglot with labels that come a step late.

    Arguments:
        way, instances: of a stream.
        easy: instances of a class where training begins.
    """

    way: int = 5
    instances: int = 10
    easy: int = 3

    def __post_init__(self) -> None:
        if not 2 <= self.easy <= self.instances:
            raise ValueError(
                "easy must be from 2, or there is nothing to remember, to the instances of a class; got "
                f"easy={self.easy}, instances={self.instances}."
            )

    def source(self, part: str, instances: int | None = None) -> LabelShiftedStream:
        """Streams of training, validation or test characters."""
        return LabelShiftedStream(omniglot_classes(part), self.way, instances or self.instances)  # type: ignore[arg-type]

    def length(self, grown: float) -> int:
        """Instances of a class in streams that are grown by so much."""
        return self.easy + round((self.instances - self.easy) * grown)

    def loss(self, model: nn.Module, generator: Generator, num: int, grown: float = 1.0) -> Tensor:
        """Of a fresh batch, of streams that are grown by so much (0 to 1)."""
        x, y = tree_to(self.source("train", self.length(grown)).sample(generator, num), device_of(model))
        return stream_loss(model(x, labels_before(y, self.way)), y)

    def mastered(self, loss: float, grown: float) -> bool:
        """Whether all but first instances, where labels not yet taken are guessed among, are told apart well enough."""
        length = self.length(grown)
        guessed = sum(math.log(left) for left in range(1, self.way + 1)) / self.way
        return (loss * length - guessed) / (length - 1) < TOLD_APART

    def scores(self, model: nn.Module, generator: Generator, num: int, part: str = "validation") -> Scores:
        """Accuracy by instance, percent, in chunks that fit a small memory."""
        x, y = tree_to(self.source(part).sample(generator, num), device_of(model))
        chunks = zip(x.split(32), y.split(32), strict=True)
        scores = torch.cat([model(some, labels_before(of, self.way)) for some, of in chunks])
        return {f"instance {k}": 100 * value for k, value in accuracy_by_instance(scores, y).items()}

    def badness(self, scores: Scores) -> float:
        """Percent wrong from the second instance on."""
        return sum(100 - value for name, value in scores.items() if name != "instance 1")


MASTERED = 0.05
"""Nats a bit."""

TOLD_APART = 0.75
"""Nats a character."""

RECENT = 100
"""Steps."""


CLIP = 10.0
"""Limit on the norm of a gradient; one that is not finite is skipped, and counted."""


@dataclass(frozen=True)
class Setting:
    """One run.

    Arguments:
        make: makes the model.
        problem: what it learns.
        steps: of the optimizer.
        lr: of Adam; constant, then down to 0 over the last half.
        batch: sequences of a step.
        evaluate_every: steps between validations.
        targets: scores to reach: at most for bits, at least for percents.
        judged: makes the model that is judged with the trained weights, one with a larger memory; None for the same.
        growing: sizes of a curriculum after its first, each of which comes once the one before is mastered, by the
            mean loss of the last `RECENT` steps at it.
        prepare: what the model learns before, from a generator.
        clip: limit on the norm of a gradient.
    """

    make: Callable[[], nn.Module]
    problem: Bits | Characters
    steps: int
    lr: float = 1e-3
    batch: int = 16
    evaluate_every: int = 500
    targets: dict[str, float] = dataclasses.field(default_factory=dict)
    judged: Callable[[], nn.Module] | None = None
    growing: int = 0
    prepare: Callable[[nn.Module, Generator], None] | None = None
    clip: float = CLIP

    def __post_init__(self) -> None:
        if self.growing and not self.problem.easy:
            raise ValueError(f"a curriculum needs easy sequences to begin with; got growing={self.growing} without.")


def exactly(num: int) -> tuple[int, int]:
    """A range of one number."""
    return num, num


COPY = Bits(
    Copy(),
    {"length 1-20": tuple(Copy(length=exactly(n)) for n in range(1, 21)), "length 60": (Copy(length=exactly(60)),)},
)


def few_repeats(grown: float) -> RepeatCopy:
    """From one vector or two, said once or twice, to all."""
    most = 2 + round(8 * grown)
    return RepeatCopy(length=(1, most), repeats=(1, most), known=(1, 10))


REPEATS = tuple(RepeatCopy(length=exactly(n), repeats=exactly(11 - n), known=(1, 10)) for n in range(1, 11))
MOST = RepeatCopy(length=exactly(10), repeats=exactly(10), known=(1, 10))
REPEAT = Bits(
    RepeatCopy(),
    {
        "1-10 x 10-1": REPEATS,
        "10 x 10": (MOST,),
        "20 x 10": (dataclasses.replace(MOST, length=exactly(20)),),
        "10 x 20": (dataclasses.replace(MOST, repeats=exactly(20)),),
    },
    few_repeats,
)
RECALL = Bits(
    AssociativeRecall(),
    {
        "2-6 items": tuple(AssociativeRecall(items=exactly(n)) for n in range(2, 7)),
        "12 items": (AssociativeRecall(items=exactly(12)),),
    },
)


def bits_model(core: Callable[..., nn.Module], problem: Bits, **sizes: int) -> nn.Module:
    """A core of a problem's sizes."""
    return core(problem.source.inputs, problem.source.outputs, **sizes)


SHARPNESS = 10.0
"""Of a softmax over cosines."""


def online_mann(way: int = 5, width: int = 32, features: int = 64) -> nn.Module:
    """MANN behind a small convolutional network, whose inputs the paper's LSTM reads as pixels.

    Embeddings are standardised, because what all have in common says nothing, and would be most of every key.
    """
    network = Conv4(features, width=width, norm="running", strided=True)
    encoder = nn.Sequential(network, nn.LayerNorm(features, elementwise_affine=False))
    return OnlineLearner(MemoryLearner(encoder, MANN(inputs_for(features, way, late=True), way), late=True))


def tell_apart(model: nn.Module, generator: Generator, steps: int = 1500) -> None:
    """Let the encoder before a memory learn to tell training characters apart, by the angle between embeddings.

    Through the memory it would learn little, as long as nothing useful is read there; and nothing is, as long as
    embeddings of different characters are alike.
    """
    encoder: nn.Module = model.learner.encoder  # type: ignore[assignment,union-attr]
    source = FewShot(omniglot_classes("train"), way=20, shot=1, query=5)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=2e-3)
    for _ in range(steps):
        support, query = tree_to(source.sample(generator), device_of(model))
        known, asked = F.normalize(encoder(torch.cat([support.x, query.x])), dim=-1).split(
            [len(support.x), len(query.x)]
        )
        loss = F.cross_entropy(SHARPNESS * asked @ known.T, query.y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


DEEP = {"rows": 128, "width": 20}
COPIED = {"length 1-20: bits wrong": 0.0, "length 60: a step": 0.05}
SOLVED = {"1-10 x 10-1: a step": 0.05, "10 x 10: a step": 0.05}
RECALLED = {"2-6 items: a step": 0.05}
INSTANCES = {"instance 2": 80.0, "instance 5": 93.0, "instance 10": 96.0}

GROWING: dict[str, Any] = {"growing": 8, "lr": 2e-3, "clip": 1.0}
"""Of a curriculum of repeats, on which fast learning now and then fails at once what it had learned."""

RUNS: dict[str, Setting] = {
    "ntm-copy": Setting(partial(bits_model, NTM, COPY, **DEEP), COPY, 30000, targets=COPIED),
    # a step of the DNC costs as the square of its rows; it can be given more once it is trained
    "dnc-copy": Setting(
        partial(bits_model, DNC, COPY, rows=64, width=20),
        COPY,
        30000,
        targets=COPIED,
        judged=partial(bits_model, DNC, COPY, **DEEP),
    ),
    "ntm-repeat": Setting(partial(bits_model, NTM, REPEAT, **DEEP), REPEAT, 60000, targets=SOLVED, **GROWING),
    "dnc-repeat": Setting(
        partial(bits_model, DNC, REPEAT, rows=32, width=20), REPEAT, 60000, targets=SOLVED, **GROWING
    ),
    "ntm-recall": Setting(partial(bits_model, NTM, RECALL, **DEEP), RECALL, 30000, targets=RECALLED),
    "dnc-recall": Setting(partial(bits_model, DNC, RECALL, rows=32, width=20), RECALL, 30000, targets=RECALLED),
    "mann-omniglot": Setting(online_mann, Characters(), 10000, targets=INSTANCES, growing=1, prepare=tell_apart),
}

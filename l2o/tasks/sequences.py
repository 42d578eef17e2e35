"""Sequences of bits in, sequences of bits out: what a model with a memory is trained on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from l2o.tasks.base import TaskFamily, choose
from l2o.tasks.module import ModuleTask
from l2o.types import Batch, Params


class Sequences(NamedTuple):
    """What is shown and what is to be answered.

    x: inputs.
    y: bits to be answered, 0 where none are.
    mask: the steps where an answer is judged.
    """

    x: Float[Tensor, "*batch time inputs"]
    y: Float[Tensor, "*batch time outputs"]
    mask: Bool[Tensor, "*batch time"]


class SequenceSource(ABC):
    """A distribution over sequences: lengths are drawn once for a batch, contents for each sequence."""

    @property
    @abstractmethod
    def inputs(self) -> int:
        """Numbers in an input."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Bits in an answer."""

    @property
    @abstractmethod
    def longest(self) -> int:
        """The most steps of a sequence."""

    @abstractmethod
    def sample(self, generator: Generator, num: int) -> Sequences:
        """`num` sequences of one length."""


@dataclass(frozen=True)
class SequenceTask(ModuleTask):
    """Train a model of sequences; the loss is the mean cross-entropy of the bits that are judged.

    Batches are filled up with steps of zeros to the longest sequence, so that all have one shape.

    Arguments:
        make: makes a fresh model, which maps inputs (batch, time, inputs) to logits (batch, time, outputs); see
            `ModuleTask`.
        source: where sequences come from.
        batch_size: sequences in a batch.
    """

    make: Callable[[], nn.Module]
    source: SequenceSource
    batch_size: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, because a loss needs a sequence; got {self.batch_size}.")

    def sample_batch(self, generator: Generator) -> Batch:
        drawn = self.source.sample(generator, self.batch_size)
        missing = self.source.longest - drawn.x.shape[1]
        x, y = (F.pad(part, (0, 0, 0, missing)) for part in drawn[:2])
        return Sequences(x, y, F.pad(drawn.mask, (0, missing)))

    def loss(self, params: Params, batch: Batch) -> Float[Tensor, ""]:
        return bit_loss(self.call(params, batch.x), batch)

    def wrong(self, params: Params, batch: Batch) -> Float[Tensor, ""]:
        """Bits wrong per sequence."""
        return bits_wrong(self.call(params, batch.x), batch).mean()


@dataclass(frozen=True)
class SequenceFamily(TaskFamily):
    """Models of sequences, trained on one of several sources. Every tuple of options is a structural choice.

    Arguments:
        make: makes a fresh model for a source's numbers of inputs and of outputs.
        sources: where sequences come from.
        batch_size: sequences in a batch.
    """

    make: Callable[[int, int], nn.Module]
    sources: tuple[SequenceSource, ...]
    batch_size: tuple[int, ...] = (16,)

    def fix(self, generator: Generator) -> SequenceFamily:
        source, size = choose(self.sources, generator), choose(self.batch_size, generator)
        return SequenceFamily(self.make, (source,), (size,))

    def sample(self, generator: Generator) -> SequenceTask:
        fixed = self.fix(generator)
        source = fixed.sources[0]
        return SequenceTask(_Sized(self.make, source.inputs, source.outputs), source, fixed.batch_size[0])


@dataclass(frozen=True)
class _Sized:
    """A maker of models for one source; equal where it makes the same, so that tasks can run in one batch."""

    make: Callable[[int, int], nn.Module]
    inputs: int
    outputs: int

    def __call__(self) -> nn.Module:
        return self.make(self.inputs, self.outputs)


def bit_loss(logits: Float[Tensor, "*batch time outputs"], of: Sequences) -> Float[Tensor, ""]:
    """The mean cross-entropy of the judged bits, in nats."""
    each = F.binary_cross_entropy_with_logits(logits, of.y, reduction="none").mean(-1)
    return (each * of.mask).sum() / of.mask.sum().clamp(min=1)


def bits_wrong(logits: Float[Tensor, "*batch time outputs"], of: Sequences) -> Float[Tensor, "*batch"]:
    """For each sequence, how many judged bits would be wrong if the logits were rounded; logits of nan are wrong."""
    right = torch.where(of.y > 0.5, logits > 0, logits <= 0)
    return ((~right).to(logits.dtype).sum(-1) * of.mask).sum(-1)

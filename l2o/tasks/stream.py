"""Labels that come a step late: classes must be learned as examples stream by (Santoro et al., 2016, section 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Generator, Tensor, nn

from l2o.tasks.data.labelled import LabelledDataset
from l2o.tasks.module import ModuleTask
from l2o.types import Batch, Params


class Stream(NamedTuple):
    """Examples one after the other.

    x: inputs, (*batch, time, *features).
    y: labels 0 .. way - 1, drawn anew for each stream.
    """

    x: Shaped[Tensor, "..."]
    y: Int[Tensor, "*batch time"]


@dataclass(frozen=True)
class LabelShiftedStream:
    """`instances` examples of each of `way` classes of a data set, in random order, with random labels.

    Arguments:
        data: where classes and examples come from; draws within a stream are without replacement.
        way: classes in a stream.
        instances: examples of each class.
    """

    data: LabelledDataset
    way: int = 5
    instances: int = 10

    def __post_init__(self) -> None:
        for name, most in (("way", self.data.num_classes), ("instances", int(self.data.counts.min()))):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(
                    f"{name} must be from 1 to {most}, because those of a stream are different ones and "
                    f"{self.data.name} has no more; got {getattr(self, name)}."
                )

    def sample(self, generator: Generator, num: int) -> Stream:
        """`num` streams."""
        classes = torch.rand(num, self.data.num_classes, generator=generator).topk(self.way, dim=1).indices
        rows = self.data.draw(classes, self.instances, generator).flatten(1)
        labels = torch.arange(self.way).repeat_interleave(self.instances).expand(num, -1)
        order = torch.rand(num, rows.shape[1], generator=generator).argsort(dim=1)
        return Stream(self.data.select(rows.gather(1, order)), labels.gather(1, order))


@dataclass(frozen=True)
class StreamTask(ModuleTask):
    """Train a model that answers each example before it is told the label; the loss is the mean cross-entropy.

    Arguments:
        make: makes a fresh model, which maps inputs (batch, time, *features) and the labels of the examples before them
            (batch, time, way), one-hot, zeros at first, to scores (batch, time, way); see `ModuleTask`.
        source: where streams come from.
        batch_size: streams in a batch.
    """

    make: Callable[[], nn.Module]
    source: LabelShiftedStream
    batch_size: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, because a loss needs a stream; got {self.batch_size}.")

    def sample_batch(self, generator: Generator) -> Batch:
        return self.source.sample(generator, self.batch_size)

    def loss(self, params: Params, batch: Batch) -> Float[Tensor, ""]:
        return stream_loss(self.call(params, batch.x, labels_before(batch.y, self.source.way)), batch.y)


def labels_before(y: Int[Tensor, "*batch time"], way: int) -> Float[Tensor, "*batch time way"]:
    """At each step the label of the step before, one-hot; zeros at the first."""
    known = (y.unsqueeze(-1) == torch.arange(way, device=y.device)).float()
    return torch.cat([torch.zeros_like(known[..., :1, :]), known[..., :-1, :]], dim=-2)


def stream_loss(scores: Float[Tensor, "*batch time way"], y: Int[Tensor, "*batch time"]) -> Float[Tensor, ""]:
    """The mean cross-entropy over all steps, in nats."""
    return F.cross_entropy(scores.flatten(0, -2), y.flatten())


def instance_numbers(y: Int[Tensor, "*batch time"]) -> Int[Tensor, "*batch time"]:
    """Of each example, the how-manieth of its class it is, from 1."""
    seen = y.unsqueeze(-1) == y.unsqueeze(-2)
    return seen.tril().sum(-1)


def accuracy_by_instance(
    scores: Float[Tensor, "*batch time way"], y: Int[Tensor, "*batch time"], instances: Sequence[int] = (1, 2, 5, 10)
) -> dict[int, float]:
    """Accuracy at the first, second, ... example of a class; nan where there is none.

    No learner that knows which labels are taken can do better at the first than (1 + 1/2 + ... + 1/way) / way.
    """
    right, number = (scores.argmax(-1) == y).double(), instance_numbers(y)
    return {k: float(right[number == k].mean()) for k in instances}

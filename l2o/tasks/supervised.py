"""What tasks on a data set or a text share: how batches are drawn, and the loss and accuracy of a classifier."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.tasks.base import Task, choose
from l2o.tasks.data import Dataset, Text
from l2o.tasks.data.text import draw_windows
from l2o.tasks.nets import cross_entropy
from l2o.types import Batch, Params

F = TypeVar("F")


@dataclass(frozen=True)
class OnDataset(Task):
    """A task whose batches are (x, y) of a data set, examples drawn independently.

    Arguments:
        data: the data set.
        batch_size: examples in a batch.
    """

    data: Dataset
    batch_size: int

    def sample_batch(self, generator: Generator) -> Batch:
        return self.data.train.draw(generator, self.batch_size)

    def sample_batches(self, generator: Generator, num: int) -> Batch:
        return self.data.train.draw(generator, num, self.batch_size)

    def sample_validation_batch(self, generator: Generator) -> Batch:
        return self.data.validation.draw(generator, self.batch_size)


@dataclass(frozen=True)
class OnText(Task):
    """A task whose batches are (characters, next characters) of a text, each (batch_size, length).

    Arguments:
        data: the text.
        batch_size: windows in a batch.
        length: characters in a window.
    """

    data: Text
    batch_size: int
    length: int

    def sample_batch(self, generator: Generator) -> Batch:
        return draw_windows(self.data.train, self.length, generator, self.batch_size)

    def sample_batches(self, generator: Generator, num: int) -> Batch:
        return draw_windows(self.data.train, self.length, generator, num, self.batch_size)

    def sample_validation_batch(self, generator: Generator) -> Batch:
        return draw_windows(self.data.validation, self.length, generator, self.batch_size)


class Classifier:
    """Loss and accuracy for a task with `logits(params, x)` and batches (x, y)."""

    def logits(self, params: Params, x: Tensor) -> Float[Tensor, "*batch classes"]:
        """Scores of the classes."""
        raise NotImplementedError

    def loss(self, params: Params, batch: Batch) -> Float[Tensor, ""]:
        x, y = batch
        return cross_entropy(self.logits(params, x), y)

    def accuracy(self, params: Params, batch: Batch) -> Float[Tensor, ""]:
        """Fraction of the batch whose label has the highest score."""
        x, y = batch
        return (self.logits(params, x).argmax(dim=-1) == y).float().mean()


def draw_structure(family: F, generator: Generator, *names: str) -> F:
    """The family with each named tuple of options replaced by one option, drawn uniformly (repeat one to favour it)."""
    drawn: dict[str, Any] = {}
    for name in names:
        options = getattr(family, name)
        if not options:
            raise ValueError(f"{type(family).__name__}.{name} must offer at least one option; got {options!r}.")
        drawn[name] = (choose(options, generator),)
    return dataclasses.replace(family, **drawn)  # type: ignore[type-var]


def log_uniform(bounds: tuple[float, float], generator: Generator, *shape: int) -> Float[Tensor, "*shape"]:
    """Positive numbers whose logarithm is uniform between the bounds."""
    low, high = bounds
    if not 0 < low <= high:
        raise ValueError(f"a log-uniform range needs bounds 0 < low <= high; got {bounds}.")
    return torch.exp(math.log(low) + (math.log(high) - math.log(low)) * torch.rand(shape, generator=generator))

"""What is trained in this benchmark: a model, its loss and its data, as a user of PyTorch writes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from l2o.tasks.data import Dataset, Part
from l2o.types import seeded

Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Problem(ABC):
    """A model and its data. Its fields, with its class, are all that can change what a run gives.

    Output layers are called `head`, so that Muon can leave them to AdamW, as its authors do.

    Arguments:
        steps: length of a run.
        batch_size: examples of a step.
        version: raised when the same fields mean something else than before.
    """

    steps: int = 2000
    batch_size: int = 64
    version: int = 1

    @abstractmethod
    def model(self) -> nn.Module:
        """A fresh model, drawn from torch's own generator as modules are; the caller seeds it."""

    @abstractmethod
    def draw(self, generator: Generator) -> Batch:
        """A training batch."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """What the optimizer descends."""

    @abstractmethod
    def held_out(self) -> list[Batch]:
        """Validation batches of equal size, always the same ones."""

    def batches(self, model: nn.Module, generator: Generator) -> Iterator[Batch]:
        """Training batches without end; the model matters only where it collects its own data."""
        while True:
            yield self.draw(generator)

    def measure(self, loss: Tensor, batch: Batch) -> float:
        """The number that the training curve is made of; lower is better."""
        return float(loss.detach())

    def validate(self, model: nn.Module, held_out: list[Batch]) -> float:
        """Mean loss on the validation batches."""
        return sum(float(self.loss(model, batch)) for batch in held_out) / len(held_out)


@dataclass(frozen=True)
class Classification(Problem):
    """Cross-entropy on labelled examples."""

    @abstractmethod
    def data(self) -> Dataset:
        """Where examples come from."""

    def draw(self, generator: Generator) -> Batch:
        return self.data().train.draw(generator, self.batch_size)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        return F.cross_entropy(model(x), y)

    def held_out(self) -> list[Batch]:
        return some(self.data().validation)


def some(part: Part, num: int = 1024, size: int = 256) -> list[Batch]:
    """Up to `num` examples of a part, always the same, in batches of equal size."""
    order = torch.randperm(len(part.x), generator=seeded(0))[:num]
    size = min(size, len(order))
    return [part.select(index) for index in order.split(size) if len(index) == size]


def perceptron(sizes: tuple[int, ...], activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers with an activation between them; the last is the `head`."""
    hidden = [layer for fan in pairwise(sizes[:-1]) for layer in (nn.Linear(*fan), activation())]
    model = nn.Sequential(*hidden)
    model.add_module("head", nn.Linear(sizes[-2], sizes[-1]))
    return model


def check_names(what: str, names: Iterable[str], known: Collection[str]) -> None:
    """Names must be known ones.

    Raises:
        ValueError: some are not.
    """
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"{what} must be among {', '.join(known)}; got {', '.join(unknown)}.")

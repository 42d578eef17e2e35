"""What every client is given: an optimizer as libraries take it, and small data that nothing was meta-trained on."""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from l2o import LearnedOptimizer
from l2o.tasks.data import breast_cancer
from l2o.types import seeded

BATCH = 32


class Choice(NamedTuple):
    """An optimizer as libraries take it: they make it of a class, a learning rate and arguments.

    More than one library passes its own learning rate whether or not it was asked to, so it stands apart.
    """

    cls: type[Optimizer]
    lr: float
    kwargs: dict[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        """All keyword arguments."""
        return {"lr": self.lr, **self.kwargs}

    def __call__(self, params: Iterable[Any]) -> Any:
        """The optimizer of some parameters."""
        return self.cls(params, **self.arguments)


Train = Callable[[Choice, int, int], list[float]]
"""A client: (optimizer, steps, seed) -> what it has minimised, in order."""


def ours(steps: int) -> Choice:
    """The optimizer in the box, untuned."""
    return Choice(LearnedOptimizer, 1.0, {"total_steps": steps})


def adamw(steps: int) -> Choice:
    """AdamW as torch makes it."""
    return Choice(AdamW, 1e-3, {})


class Photographs(NamedTuple):
    """Square pieces of photographs, and which each is of."""

    x: Float[Tensor, "n 3 32 32"]
    y: Int[Tensor, " n"]


def perceptron() -> nn.Module:
    """For the table: 30 features, 2 classes."""
    return nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.LayerNorm(64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


def table_batches(seed: int) -> Iterator[tuple[Float[Tensor, "n 30"], Int[Tensor, " n"]]]:
    """Batches of tumours (UCI "Breast Cancer Wisconsin"), without end."""
    generator = seeded(seed)
    while True:
        x, y = breast_cancer().train.draw(generator, BATCH)
        yield x, y


@lru_cache
def photographs() -> Photographs:
    """Pieces of the two photographs that come with scikit-learn."""
    from sklearn.datasets import load_sample_images

    pieces, labels = [], []
    for label, picture in enumerate(load_sample_images().images):
        pixels = torch.tensor(picture).permute(2, 0, 1).float() / 255
        cut = pixels.unfold(1, 32, 32).unfold(2, 32, 32).permute(1, 2, 0, 3, 4).reshape(-1, 3, 32, 32)
        pieces.append(cut - 0.5)
        labels.append(torch.full((len(cut),), label))
    return Photographs(torch.cat(pieces), torch.cat(labels))


def photograph_batches(seed: int) -> Iterator[tuple[Float[Tensor, "n 3 32 32"], Int[Tensor, " n"]]]:
    """Batches of them, without end."""
    generator, (x, y) = seeded(seed), photographs()
    while True:
        index = torch.randint(len(x), (BATCH,), generator=generator)
        yield x[index], y[index]


@lru_cache
def help_texts(length: int = 32) -> Int[Tensor, "n length"]:
    """Python's own help on its language, as bytes, in windows."""
    text = "\n".join(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics))
    codes = torch.tensor(list(text.encode("ascii", "ignore")[:60_000]))
    return codes[: len(codes) // length * length].view(-1, length)

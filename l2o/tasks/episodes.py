"""Episodes: a few examples to adapt to, and others to be judged by; and where they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Shaped
from torch import Generator, Tensor

from l2o.tasks.data.labelled import LabelledDataset
from l2o.types import tree_stack


class Examples(NamedTuple):
    """Inputs and what is to be said of them.

    x: inputs.
    y: labels 0 .. way - 1 (integers), or targets (floats).
    """

    x: Shaped[Tensor, "*n"]
    y: Shaped[Tensor, "*n"]


class Episode(NamedTuple):
    """One task of few examples.

    support: what the learner adapts to.
    query: what it is judged by.
    """

    support: Examples
    query: Examples


class EpisodeFamily(ABC):
    """A distribution over episodes of one shape."""

    @abstractmethod
    def sample(self, generator: Generator) -> Episode:
        """One episode."""

    def sample_many(self, generator: Generator, num: int) -> Episode:
        """`num` episodes stacked along a new leading axis."""
        return tree_stack([self.sample(generator) for _ in range(num)])

    def at(self, step: int) -> EpisodeFamily:
        """What training draws from at an outer step; a family that grows (a curriculum) is another one at each."""
        return self


@dataclass(frozen=True)
class FewShot(EpisodeFamily):
    """N-way K-shot classification: N classes of a data set, K examples of each to learn from, others to judge.

    Rows are shot-major: every `way` consecutive ones hold one example of each class, in the order of their labels.

    Arguments:
        data: where classes and examples come from; draws within an episode are without replacement.
        way: classes in an episode.
        shot: support examples of each class.
        query: query examples of each class.
    """

    data: LabelledDataset
    way: int = 5
    shot: int = 1
    query: int = 15

    def __post_init__(self) -> None:
        for name in ("way", "shot", "query"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, or an episode is empty; got {getattr(self, name)}.")
        if self.way > self.data.num_classes:
            raise ValueError(
                f"way must not exceed the {self.data.num_classes} classes of {self.data.name}, because an episode's "
                f"classes are different ones; got {self.way}."
            )
        fewest = int(self.data.counts.min())
        if self.shot + self.query > fewest:
            raise ValueError(
                "shot + query must not exceed the examples of any class, because an episode's examples are different "
                f"ones; {self.data.name} has a class of {fewest}, got {self.shot} + {self.query}."
            )

    def sample(self, generator: Generator) -> Episode:
        many = self.sample_many(generator, 1)
        return Episode(*(Examples(part.x[0], part.y[0]) for part in many))

    def sample_many(self, generator: Generator, num: int) -> Episode:
        classes = torch.rand(num, self.data.num_classes, generator=generator).topk(self.way, dim=1).indices
        rows = self.data.draw(classes, self.shot + self.query, generator).transpose(1, 2)  # (num, examples, way)
        labels = torch.arange(self.way)

        def part(index: Tensor) -> Examples:
            y = labels.expand(index.shape).flatten(1)
            return Examples(self.data.select(index.flatten(1)), y)

        return Episode(part(rows[:, : self.shot]), part(rows[:, self.shot :]))

"""Classes of functions to be learned from examples (Garg et al., 2022, https://arxiv.org/abs/2208.01066, section 2).

How well each can be learned from so many examples, `function_limits` knows.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.tasks.episodes import Episode, EpisodeFamily, Examples


@dataclass(frozen=True)
class FunctionClass(EpisodeFamily):
    """Values of a random function at normal points x from N(0, scale^2 I).

    Arguments:
        dim: numbers in x.
        shot: support points; may be none.
        query: query points.
        noise: deviation of normal noise on every value.
        scale: deviation of the inputs' numbers.
        active: how many numbers of x, the first ones, are drawn; the others are 0 and no function depends on them.
            None for all.
    """

    dim: int = 20
    shot: int = 0
    query: int = 41
    noise: float = 0.0
    scale: float = 1.0
    active: int | None = None

    def __post_init__(self) -> None:
        if self.dim < 1 or self.query < 1 or self.shot < 0:
            raise ValueError(
                "dim and query must be at least 1 and shot at least 0, or an episode is empty; got "
                f"{self.dim}, {self.query} and {self.shot}."
            )
        if self.noise < 0 or not self.scale > 0:
            raise ValueError(
                f"noise must not be negative and scale positive, for they are deviations; got {self.noise} and "
                f"{self.scale}."
            )
        if not 1 <= self.num_active <= self.dim:
            raise ValueError(f"active must be from 1 to the {self.dim} numbers of x; got {self.active}.")

    @property
    def num_active(self) -> int:
        """How many numbers of x are drawn."""
        return self.dim if self.active is None else self.active

    @abstractmethod
    def values(self, x: Float[Tensor, "num n dim"], generator: Generator) -> Float[Tensor, "num n 1"]:
        """A function of its own for each episode, at the points, without noise."""

    def sample(self, generator: Generator) -> Episode:
        many = self.sample_many(generator, 1)
        return Episode(*(Examples(part.x[0], part.y[0]) for part in many))

    def sample_many(self, generator: Generator, num: int) -> Episode:
        return self.draw(generator, num)[0]

    def draw(self, generator: Generator, num: int) -> tuple[Episode, Float[Tensor, "num query 1"]]:
        """Episodes, and the values of their queries without noise."""
        x = self.scale * torch.randn(num, self.shot + self.query, self.dim, generator=generator)
        x[..., self.num_active :] = 0.0
        clean = self.values(x, generator)
        y = clean + self.noise * torch.randn(clean.shape, generator=generator)
        at = self.shot
        return Episode(Examples(x[:, :at], y[:, :at]), Examples(x[:, at:], y[:, at:])), clean[:, at:]


@dataclass(frozen=True)
class LinearFunctions(FunctionClass):
    """w x with w from N(0, I).

    Arguments:
        sparsity: how many numbers of w, at random places, are not 0; None for all.
    """

    sparsity: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sparsity is not None and self.sparsity < 1:
            raise ValueError(f"sparsity must be at least 1, or every function is 0; got {self.sparsity}.")

    def values(self, x: Float[Tensor, "num n dim"], generator: Generator) -> Float[Tensor, "num n 1"]:
        w = torch.randn(len(x), self.num_active, 1, generator=generator)
        if self.sparsity is not None and self.sparsity < self.num_active:
            order = torch.rand(len(x), self.num_active, generator=generator).argsort(1)
            w = w * (order < self.sparsity).unsqueeze(-1)
        return x[..., : self.num_active] @ w


@dataclass(frozen=True)
class TwoLayerFunctions(FunctionClass):
    """Networks sqrt(2 / hidden) sum_i a_i relu(w_i x), all weights normal.

    Arguments:
        hidden: units.
    """

    hidden: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden < 1:
            raise ValueError(f"hidden must be at least 1, or every function is 0; got {self.hidden}.")

    def values(self, x: Float[Tensor, "num n dim"], generator: Generator) -> Float[Tensor, "num n 1"]:
        w = torch.randn(len(x), self.dim, self.hidden, generator=generator)
        a = torch.randn(len(x), self.hidden, 1, generator=generator)
        return math.sqrt(2 / self.hidden) * torch.relu(x @ w) @ a


@dataclass(frozen=True)
class DecisionTrees(FunctionClass):
    """Full binary trees: every inner node asks for the sign of a random number of x, leaves are from N(0, 1).

    Arguments:
        depth: questions on the way to a leaf.
    """

    depth: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 1:
            raise ValueError(f"depth must be at least 1, or x says nothing; got {self.depth}.")

    def values(self, x: Float[Tensor, "num n dim"], generator: Generator) -> Float[Tensor, "num n 1"]:
        num, n, _ = x.shape
        asked = torch.randint(self.num_active, (num, 2**self.depth - 1), generator=generator)
        leaves = torch.randn(num, 2**self.depth, generator=generator)
        node = torch.zeros(num, n, dtype=torch.int64)  # children of node i are 2 i + 1 and 2 i + 2
        for _ in range(self.depth):
            number = x.gather(2, asked.gather(1, node).unsqueeze(-1)).squeeze(-1)
            node = 2 * node + 1 + (number > 0)
        return leaves.gather(1, node - (2**self.depth - 1)).unsqueeze(-1)


@dataclass(frozen=True)
class Ramp:
    """A number that grows by `by` every `every` steps, from `start` to `end`."""

    start: int
    end: int
    by: int = 1
    every: int = 2000

    def __post_init__(self) -> None:
        if not 1 <= self.start <= self.end or self.by < 1 or self.every < 1:
            raise ValueError(
                "a ramp must rise from a positive start to an end that is no less, by at least 1 every 1 or more "
                f"steps; got {self}."
            )

    def at(self, step: int) -> int:
        """The number at a step."""
        return min(self.end, self.start + self.by * (step // self.every))


@dataclass(frozen=True)
class Curriculum(EpisodeFamily):
    """Functions of few numbers at few points first, then of more (Garg et al., 2022, appendix A).

    Arguments:
        family: what it comes to; what is drawn where no step is known.
        active: of the numbers of x that are drawn.
        query: of the query points.
    """

    family: FunctionClass
    active: Ramp
    query: Ramp

    def __post_init__(self) -> None:
        if self.active.end != self.family.num_active or self.query.end != self.family.query:
            raise ValueError(
                f"a curriculum must end at its family, {self.family.num_active} active numbers and "
                f"{self.family.query} query points; got {self.active.end} and {self.query.end}."
            )

    def at(self, step: int) -> FunctionClass:
        changes: dict[str, Any] = {"active": self.active.at(step), "query": self.query.at(step)}
        return dataclasses.replace(self.family, **changes)

    def sample(self, generator: Generator) -> Episode:
        return self.family.sample(generator)

    def sample_many(self, generator: Generator, num: int) -> Episode:
        return self.family.sample_many(generator, num)

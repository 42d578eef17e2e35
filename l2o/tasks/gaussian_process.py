"""Regression of draws from Gaussian processes; `gaussian_process_limits` knows how well it can be done.

The family of Kim et al. (2019, https://arxiv.org/abs/1901.05761) and Nguyen and Grover (2022,
https://arxiv.org/abs/2207.04179) by default: a kernel of its own for each task.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.tasks.episodes import Episode, EpisodeFamily, Examples

JITTER = 1e-10
"""Added to the diagonal of covariances, in doubles, so that rounding leaves them positive."""


class Hyperparameters(NamedTuple):
    """Those of a stationary kernel.

    lengthscale: how far inputs lie apart whose values differ.
    scale: deviation of a value, before noise.
    """

    lengthscale: Float[Tensor, "*n"]
    scale: Float[Tensor, "*n"]


@dataclass(frozen=True)
class GaussianProcess(EpisodeFamily):
    """Values of a random function at points of U[domain], all with normal noise, of which some are given.

    Support and query have random sizes; those of one batch are the same, so that episodes stack.

    Arguments:
        kernel: rbf, exp(-d^2 / 2), or matern, (1 + sqrt(5) d + 5 d^2 / 3) exp(-sqrt(5) d), d in lengthscales.
        lengthscale, scale: from and to, of a uniform distribution; equal numbers for a kernel that is always the same.
        noise: deviation.
        context: fewest and most points of a support.
        target: fewest and most points of a query.
        total: most points of both together, which bounds the query; None for no bound.
        domain: from and to, of the points.
    """

    kernel: str = "rbf"
    lengthscale: tuple[float, float] = (0.1, 0.6)
    scale: tuple[float, float] = (0.1, 1.0)
    noise: float = 0.02
    context: tuple[int, int] = (3, 46)
    target: tuple[int, int] = (3, 46)
    total: int | None = 49
    domain: tuple[float, float] = (-2.0, 2.0)

    def __post_init__(self) -> None:
        if self.kernel not in ("rbf", "matern"):
            raise ValueError(f"kernel must be rbf or matern, those that are known here; got {self.kernel!r}.")
        if not self.noise > 0:
            raise ValueError(f"noise must be positive, or covariances would be singular; got {self.noise}.")
        for name in ("lengthscale", "scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be positive, from the lower to the higher; got {(low, high)}.")
        if not (0 <= self.context[0] <= self.context[1] and 1 <= self.target[0] <= self.target[1]):
            raise ValueError(
                "context must be from 0 points and target from 1, from fewest to most; got "
                f"{self.context} and {self.target}."
            )
        if self.total is not None and self.context[1] + self.target[0] > self.total:
            raise ValueError(
                f"total must leave {self.target[0]} target points beside the most context points, {self.context[1]}; "
                f"got {self.total}."
            )

    def sample(self, generator: Generator) -> Episode:
        many = self.sample_many(generator, 1)
        return Episode(*(Examples(part.x[0], part.y[0]) for part in many))

    def sample_many(self, generator: Generator, num: int) -> Episode:
        return self.draw(generator, num)[0]

    def draw(self, generator: Generator, num: int) -> tuple[Episode, Hyperparameters]:
        """Episodes, and the kernels that they are of."""
        at, queries = self.sizes(generator)
        of = Hyperparameters(*(_uniform(span, (num, 1, 1), generator) for span in (self.lengthscale, self.scale)))
        x = _uniform(self.domain, (num, at + queries, 1), generator)
        covariance = covariances(self.kernel, x, x, of) + (self.noise**2 + JITTER) * torch.eye(at + queries).double()
        normal = torch.randn(num, at + queries, 1, generator=generator, dtype=torch.float64)
        y = (torch.linalg.cholesky(covariance) @ normal).float()
        x = x.float()
        episodes = Episode(Examples(x[:, :at], y[:, :at]), Examples(x[:, at:], y[:, at:]))
        return episodes, Hyperparameters(*(value.view(num) for value in of))

    def sizes(self, generator: Generator) -> tuple[int, int]:
        """Numbers of points of support and query."""
        support = _integer(self.context, generator)
        most = self.target[1] if self.total is None else min(self.target[1], self.total - support)
        return support, _integer((self.target[0], most), generator)


FIXED_KERNEL = GaussianProcess(
    lengthscale=(0.25, 0.25), scale=(1.0, 1.0), noise=0.05**0.5, context=(0, 30), target=(50, 50), total=None
)
"""One kernel for all tasks, much noise, perhaps no context at all: the family of the library `neuralprocesses`."""


def covariances(
    kernel: str, a: Float[Tensor, "*n a 1"], b: Float[Tensor, "*n b 1"], of: Hyperparameters
) -> Float[Tensor, "*n a b"]:
    """Of the function's values at points, without noise; hyperparameters have two axes of 1 at the end."""
    d = (a - b.mT).abs() / of.lengthscale
    if kernel == "rbf":
        correlation = torch.exp(-0.5 * d.square())
    else:
        r = math.sqrt(5.0) * d
        correlation = (1 + r + r.square() / 3) * torch.exp(-r)
    return of.scale.square() * correlation


def _uniform(span: tuple[float, float], shape: tuple[int, ...], generator: Generator) -> Float[Tensor, "*shape"]:
    low, high = span
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def _integer(span: tuple[int, int], generator: Generator) -> int:
    low, high = span
    return int(torch.randint(low, high + 1, (), generator=generator))

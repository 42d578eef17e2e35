"""Continuous goals by learning progress: ALP-GMM (Portelas et al., 2019, https://arxiv.org/abs/1910.07224)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.agents.policy import SMALLEST_NOISE

FLOOR = 1e-4
"""Added to variances, in units of the goal space's side, squared."""


class Tried(NamedTuple):
    """The last goals of each lane, the oldest first, what came of them, and how that differed from goals near by."""

    goal: Float[Tensor, "lanes tried dim"]
    outcome: Float[Tensor, "lanes tried"]
    progress: Float[Tensor, "lanes tried"]


class Mixture(NamedTuple):
    """Gaussians over goals, and how much progress there is in each."""

    weight: Float[Tensor, "lanes components"]
    mean: Float[Tensor, "lanes components dim"]
    factor: Float[Tensor, "lanes components dim dim"]
    progress: Float[Tensor, "lanes components"]


@dataclass(frozen=True)
class ALPGMM:
    """Draws goals from where outcomes change most; goals are points of the unit cube.

    The absolute learning progress of a goal is the difference of its outcome from that of the nearest goal tried
    before. A mixture of Gaussians is fitted to the latest goals with their progress, and one of them is chosen in
    proportion to its mean progress. In place of choosing their number by AIC it is fixed here, so that all lanes are
    fitted in one batch; a component that explains nothing dies out.

    Arguments:
        dim: of goals.
        size: goals that are remembered.
        num_components: Gaussians.
        explore: share of goals that are uniform.
        num_iterations: of expectation-maximisation.
    """

    dim: int
    size: int = 250
    num_components: int = 6
    explore: float = 0.2
    num_iterations: int = 15

    def __post_init__(self) -> None:
        if self.dim < 1 or self.size < 2 * self.num_components or not 0.0 < self.explore <= 1.0:
            raise ValueError(
                "goals need a dimension, two of them for each component, and explore in (0, 1], or nothing is ever "
                f"tried elsewhere; got {self!r}."
            )

    def init(self, num_lanes: int) -> Tried:
        """Nothing was tried."""
        none = torch.zeros(num_lanes, 0)
        return Tried(torch.zeros(num_lanes, 0, self.dim), none, none)

    def tried(self, before: Tried, goal: Float[Tensor, "lanes dim"], outcome: Float[Tensor, " lanes"]) -> Tried:
        """With one more goal a lane, and what came of it."""
        progress = torch.zeros_like(outcome)
        if before.goal.shape[1]:
            nearest = (before.goal - goal.unsqueeze(1)).square().sum(dim=-1).argmin(dim=-1, keepdim=True)
            progress = (outcome - before.outcome.gather(-1, nearest).squeeze(-1)).abs()
        latest = (goal.unsqueeze(1), outcome.unsqueeze(1), progress.unsqueeze(1))
        return Tried(*(torch.cat([old, new], dim=1)[:, -self.size :] for old, new in zip(before, latest, strict=True)))

    def fit(self, tried: Tried, generator: Generator) -> Mixture | None:
        """A mixture over what was tried; None while that is too little."""
        lanes, num = tried.outcome.shape
        if num < 2 * self.num_components:
            return None
        points = torch.cat([tried.goal, tried.progress.unsqueeze(-1)], dim=-1)
        first = torch.rand(lanes, num, generator=generator).argsort(dim=-1)[:, : self.num_components]
        mean = points.gather(1, first.unsqueeze(-1).expand(-1, -1, self.dim + 1))
        eye = FLOOR * torch.eye(self.dim + 1)
        spread = (_covariance(points, torch.ones(lanes, num, 1)) / self.num_components + eye).expand(
            -1, self.num_components, -1, -1
        )
        weight = torch.full((lanes, self.num_components), 1.0 / self.num_components)
        for _ in range(self.num_iterations):
            share = _shares(points, weight, mean, spread)
            mass = share.sum(dim=1).clamp(min=1e-6)
            weight = mass / num
            mean = torch.einsum("lnk,lnd->lkd", share, points) / mass.unsqueeze(-1)
            spread = _covariance(points, share) + eye
        factor = torch.linalg.cholesky(spread[..., : self.dim, : self.dim])
        return Mixture(weight, mean[..., : self.dim], factor, mean[..., -1].clamp(min=0.0))

    def choose(self, mixture: Mixture | None, noise: Float[Tensor, "lanes noise"]) -> Float[Tensor, "lanes dim"]:
        """A goal a lane.

        Arguments:
            noise: uniform numbers in [0, 1), 2 + dim a lane.
        """
        uniform = noise[:, 2:]
        if mixture is None:
            return uniform
        share = mixture.progress * (mixture.weight > 1e-3) + 1e-8
        edge = (share / share.sum(dim=-1, keepdim=True)).cumsum(dim=-1)
        index = (edge <= noise[:, 1:2]).sum(dim=-1).clamp(max=self.num_components - 1)
        lane = torch.arange(len(noise))
        normal = torch.special.ndtri(uniform.clamp(min=SMALLEST_NOISE))
        near = mixture.mean[lane, index] + (mixture.factor[lane, index] @ normal.unsqueeze(-1)).squeeze(-1)
        return torch.where(noise[:, :1] < self.explore, uniform, near.clamp(0.0, 1.0))


def _covariance(points: Float[Tensor, "lanes n d"], share: Float[Tensor, "lanes n k"]) -> Float[Tensor, "lanes k d d"]:
    """Of the points, as each component sees them."""
    mass = share.sum(dim=1).clamp(min=1e-6)
    mean = torch.einsum("lnk,lnd->lkd", share, points) / mass.unsqueeze(-1)
    centred = points.unsqueeze(2) - mean.unsqueeze(1)
    return torch.einsum("lnk,lnkd,lnke->lkde", share, centred, centred) / mass[..., None, None]


def _shares(points: Tensor, weight: Tensor, mean: Tensor, spread: Tensor) -> Float[Tensor, "lanes n k"]:
    """How likely each point came from each component."""
    factor = torch.linalg.cholesky(spread)
    centred = (points.unsqueeze(2) - mean.unsqueeze(1)).permute(0, 2, 3, 1)  # lanes, k, d, n
    z = torch.linalg.solve_triangular(factor, centred, upper=False)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    log_density = -0.5 * z.square().sum(dim=-2) - (log_det + 0.5 * points.shape[-1] * math.log(2 * math.pi))[..., None]
    return (log_density + weight.log().unsqueeze(-1)).softmax(dim=1).transpose(1, 2)

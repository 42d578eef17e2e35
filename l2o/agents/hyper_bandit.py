"""A bandit for hyperparameters without a gradient: PPO's clip range, a horizon, which planner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from l2o.agents.policy import SMALLEST_NOISE


class Pulls(NamedTuple):
    """Discounted numbers, sums and sums of squares of what each option paid, by lane."""

    number: Float[Tensor, "lanes options"]
    total: Float[Tensor, "lanes options"]
    square: Float[Tensor, "lanes options"]


@dataclass(frozen=True)
class HyperBandit:
    """Thompson sampling over a few options whose worth drifts, each lane for itself.

    Older pulls are forgotten by `memory` (Garivier and Moulines, 2011, https://arxiv.org/abs/0805.3415). With m_i and
    n_i an option's discounted mean and count, m and s mean and deviation of all pulls of the lane, an option is drawn
    by its chance of having the largest of N((n_i m_i + m) / (n_i + 1), s / sqrt(n_i + 1)).

    Arguments:
        num_options: to choose from.
        memory: by which counts are multiplied at each pull.
    """

    num_options: int
    memory: float = 0.95

    def __post_init__(self) -> None:
        if self.num_options < 2 or not 0.0 < self.memory <= 1.0:
            raise ValueError(
                "a bandit needs 2 options and memory in (0, 1]; got "
                f"num_options={self.num_options}, memory={self.memory}."
            )

    def init(self, num_lanes: int) -> Pulls:
        """Nothing was tried."""
        zeros = torch.zeros(num_lanes, self.num_options)
        return Pulls(zeros, zeros, zeros)

    def choose(
        self,
        pulls: Pulls,
        noise: Float[Tensor, "lanes options"],
        allowed: Bool[Tensor, "lanes options"] | None = None,
    ) -> Int[Tensor, " lanes"]:
        """An option a lane, of those that are allowed, by uniform numbers in [0, 1); untried ones first."""
        total = pulls.number.sum(dim=-1, keepdim=True).clamp(min=1e-6)
        mean = pulls.total.sum(dim=-1, keepdim=True) / total
        spread = (pulls.square.sum(dim=-1, keepdim=True) / total - mean.square()).clamp(min=1e-12).sqrt()
        centre = (pulls.total + mean) / (pulls.number + 1.0)
        normal = torch.special.ndtri(noise.clamp(min=SMALLEST_NOISE))
        drawn = centre + spread * normal * torch.rsqrt(pulls.number + 1.0)
        untried = pulls.number < 1e-3
        drawn = torch.where(untried, 1e30 * (1.0 + noise), drawn)
        return (drawn if allowed is None else torch.where(allowed, drawn, -torch.inf)).argmax(dim=-1)

    def updated(self, pulls: Pulls, option: Int[Tensor, " lanes"], paid: Float[Tensor, " lanes"]) -> Pulls:
        """With what the chosen options paid; a payment that is not finite counts as the worst there was."""
        chosen = one_hot(option, self.num_options).to(pulls.total)
        mean = pulls.total.sum(dim=-1) / pulls.number.sum(dim=-1).clamp(min=1e-6)
        deviation = (pulls.square.sum(dim=-1) / pulls.number.sum(dim=-1).clamp(min=1e-6) - mean.square()).clamp(min=0)
        paid = torch.where(paid.isfinite(), paid, mean - 3.0 * deviation.sqrt() - 1.0)
        amount = chosen * paid.unsqueeze(-1)
        new = (chosen, amount, amount * paid.unsqueeze(-1))
        return Pulls(*(self.memory * old + more for old, more in zip(pulls, new, strict=True)))

"""Which skill to practise next: uniform, and by learning progress that knows how uncertain it is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from l2o.agents.policy import SMALLEST_NOISE
from l2o.agents.skills.record import FAST, SLOW, Record


class Chooser(ABC):
    """A distribution over skills, given what is known of them; a pure function of a batch of records."""

    @abstractmethod
    def logits(self, record: Record) -> Float[Tensor, "lanes skills"]:
        """Unnormalised log-probabilities of practising each skill next."""

    def choose(self, record: Record, noise: Float[Tensor, "lanes skills"]) -> Int[Tensor, " lanes"]:
        """A skill a lane, drawn by uniform numbers in [0, 1) (Gumbel's trick)."""
        uniform = noise.clamp(min=SMALLEST_NOISE)
        return (self.logits(record) - torch.log(-torch.log(uniform))).argmax(dim=-1)


@dataclass(frozen=True)
class Uniform(Chooser):
    """Every skill is equally likely."""

    def logits(self, record: Record) -> Float[Tensor, "lanes skills"]:
        return torch.zeros_like(record.since)


@dataclass(frozen=True)
class LearningProgress(Chooser):
    """By how much success rates may be rising: expected improvement of the recent rate on the older one.

    With d the difference of the posterior means and s its deviation,

        p_i proportional to E[max(0, N(d_i, s_i))]^sharpness + floor,  E = d Phi(d/s) + s phi(d/s).

    A skill with chance successes is known well after a few trials: its d is near 0 and its s small, so that noise does
    not look like progress, as it does with a bare |fast - slow| (Graves et al., 2017, https://arxiv.org/abs/1704.03003).
    Skills hardly tried have a large s and come first.

    Arguments:
        sharpness: 0 chooses uniformly, infinity the largest.
        floor: weight of every skill beside its progress, so that none is left for good.
        absolute: |d| in place of max(0, d): forgetting counts as well (Colas et al., 2019).
    """

    sharpness: float = 2.0
    floor: float = 0.01
    absolute: bool = False

    def __post_init__(self) -> None:
        if not (self.sharpness >= 0.0 and self.floor > 0.0):
            raise ValueError(
                "sharpness must be >= 0 and floor > 0, or some skill is never practised again; got "
                f"sharpness={self.sharpness}, floor={self.floor}."
            )

    def logits(self, record: Record) -> Float[Tensor, "lanes skills"]:
        return torch.log(self.progress(record).pow(self.sharpness) + self.floor)

    def progress(self, record: Record) -> Float[Tensor, "lanes skills"]:
        """The expected improvement of each skill."""
        rate, variance = record.rate(), record.variance()
        gain = rate[..., FAST] - rate[..., SLOW]
        spread = (variance[..., FAST] + variance[..., SLOW]).sqrt()
        return _positive_part(gain, spread) + (_positive_part(-gain, spread) if self.absolute else 0.0)


@dataclass(frozen=True)
class BareProgress(Chooser):
    """By |fast - slow| of success rates, as is usual, for comparison; `explore` of the choices are uniform.

    Arguments:
        explore: share of uniform choices.
        power: of the progress.
    """

    explore: float = 0.2
    power: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.explore <= 1.0:
            raise ValueError(f"explore must be in (0, 1], or no skill is ever begun; got {self.explore}.")

    def logits(self, record: Record) -> Float[Tensor, "lanes skills"]:
        rates = record.successes / record.trials.clamp(min=1e-6)
        weight = (rates[..., FAST] - rates[..., SLOW]).abs().pow(self.power)
        share = weight / weight.sum(dim=-1, keepdim=True).clamp(min=1e-6)
        return torch.log((1.0 - self.explore) * share + self.explore / share.shape[-1])


def _positive_part(mean: Tensor, deviation: Tensor) -> Tensor:
    """E[max(0, N(mean, deviation))]."""
    z = mean / deviation
    return mean * torch.special.ndtr(z) + deviation * torch.exp(-0.5 * z.square()) / math.sqrt(2.0 * math.pi)

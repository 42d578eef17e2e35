"""A rule meta-trained on whole lifetimes: evolution strategies whose every sample is an agent's training, by PPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from l2o.agents.kind import Kind, one_of
from l2o.agents.losses import Hyperparameters
from l2o.estimators.base import GradientEstimator, MetaGradient
from l2o.rules.base import UpdateRule
from l2o.types import Theta


@dataclass(frozen=True)
class LifetimeES(GradientEstimator):
    """Antithetic evolution strategies over whole lives, shaped by rank (Salimans et al., 2017, section 2.1).

    Both thetas of a pair train the same agents, in the same worlds with the same chances; the estimate is

        mean over pairs of (rank(L+) - rank(L-)) / (2 s) * epsilon / s,

    ranks from -1/2 to 1/2 over all that were tried, L the share of the return that was missed. Ranks, since one kind of
    life promises more than another. Each estimate is of one kind, drawn from `kinds`; nothing is left over from it.

    Arguments:
        rule: what is trained; theta may be a part of its parameters.
        kinds: lives to learn from.
        num_pairs: perturbations.
        num_lives: lives for each theta of a pair.
        std: standard deviation s of perturbations.
        rates: learning rates are a kind's times a number drawn log-uniformly from 1 / rates to rates for each life, so
            that the rule will do under a rate that is tuned afterwards.
    """

    rule: UpdateRule
    kinds: tuple[Kind, ...]
    num_pairs: int = 12
    num_lives: int = 4
    std: float = 0.03
    rates: float = 1.0

    def __post_init__(self) -> None:
        sizes = min(len(self.kinds), self.num_pairs, self.num_lives)
        if sizes < 1 or not self.std > 0 or not self.rates >= 1:
            raise ValueError(
                "evolution needs a kind of life, a pair, a life, a positive std and rates of 1 or more; got "
                f"{len(self.kinds)} kinds, num_pairs={self.num_pairs}, num_lives={self.num_lives}, std={self.std}, "
                f"rates={self.rates}."
            )

    @property
    def module(self) -> nn.Module:
        return self.rule

    def init(self, theta: Theta, generator: Generator) -> dict[str, Any]:
        return {}

    @torch.no_grad()
    def estimate(self, theta: Theta, state: Any, generator: Generator) -> tuple[MetaGradient, Any]:
        pairs = self.num_pairs
        kind = one_of(self.kinds, generator)
        epsilon = {name: self.std * torch.randn(pairs, *p.shape, generator=generator) for name, p in theta.items()}
        tried = {
            name: torch.cat([p + epsilon[name], p - epsilon[name]]).repeat_interleave(self.num_lives, dim=0)
            for name, p in theta.items()
        }
        hyper = self._hyperparameters(kind, generator)
        num = 2 * pairs * self.num_lives
        scores = kind.scores(self.rule, generator, num, copies=2, theta=tried, hyperparameters=hyper)
        missed = 1.0 - scores.view(2, pairs, self.num_lives).mean(dim=-1)
        share = (_ranks(missed.flatten()).view(2, pairs)[0] - _ranks(missed.flatten()).view(2, pairs)[1]) / pairs
        grads = {name: torch.tensordot(share.to(e.dtype), e, dims=1) / (2 * self.std**2) for name, e in epsilon.items()}
        return MetaGradient(grads, missed.mean(), {"spread": missed.std()}), state

    def _hyperparameters(self, kind: Kind, generator: Generator) -> Hyperparameters:
        """A kind's, both thetas of a pair at the same learning rate."""
        if self.rates == 1.0:
            return kind.hyperparameters
        draw = torch.rand(self.num_pairs * self.num_lives, generator=generator).repeat(2)
        rate = kind.hyperparameters.learning_rate * self.rates ** (2.0 * draw - 1.0)
        return kind.hyperparameters._replace(learning_rate=rate)


def _ranks(x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """From -1/2, of the least, to 1/2; equal ones share theirs."""
    below = (x.unsqueeze(0) < x.unsqueeze(1)).sum(dim=1) + 0.5 * ((x.unsqueeze(0) == x.unsqueeze(1)).sum(dim=1) - 1)
    return below / max(1, len(x) - 1) - 0.5

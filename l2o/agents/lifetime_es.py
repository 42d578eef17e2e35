"""A rule meta-trained on whole lifetimes: evolution strategies whose every sample is an agent's training, by PPO."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from l2o.agents import lifetime
from l2o.agents.environments.base import Environment
from l2o.agents.lifetime import PPO
from l2o.agents.losses import Hyperparameters
from l2o.agents.policy import ActorCritic
from l2o.estimators.base import GradientEstimator, MetaGradient
from l2o.rules.base import UpdateRule
from l2o.types import Theta


@dataclass(frozen=True)
class Kind:
    """A kind of life: what is lived in, by whom, and how it learns.

    Arguments:
        environment: the family whose worlds agents live in.
        hidden: widths of the policy's hidden layers.
        hyperparameters: of learning.
        algorithm: how much is done between updates.
        num_iterations: a life's length.
    """

    environment: Environment
    hidden: tuple[int, ...] = (32,)
    hyperparameters: Hyperparameters = Hyperparameters()  # noqa: RUF009 (immutable)
    algorithm: PPO = field(default_factory=PPO)
    num_iterations: int = 20

    def __post_init__(self) -> None:
        low, high = self.environment.return_range
        if not low < high or not high - low < float("inf"):
            raise ValueError(
                "a kind of life needs an environment with a finite return_range, because lives are scored by their "
                f"share of it; got {self.environment!r} with {(low, high)}."
            )

    def scores(
        self,
        rule: UpdateRule,
        generator: Generator,
        num: int,
        copies: int = 1,
        theta: Theta | None = None,
        hyperparameters: Hyperparameters | None = None,
    ) -> Float[Tensor, " num"]:
        """The share of the possible return, in [0, 1], averaged over each of `num` lives: the area under its curve.

        Arguments:
            copies: so many blocks of lives with the same worlds, policies and chances (see `Lifetimes.start`).
            theta: the rule's own if None; with a leading axis, one for each life.
            hyperparameters: in place of the kind's.
        """
        curves = lifetime.run(
            self.environment,
            ActorCritic.of(self.environment, self.hidden),
            rule,
            self.hyperparameters if hyperparameters is None else hyperparameters,
            num,
            self.num_iterations,
            generator=generator,
            algorithm=self.algorithm,
            theta=theta,
            copies=copies,
        )
        low, high = self.environment.return_range
        return ((curves.area - low) / (high - low)).clamp(0.0, 1.0)


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
    """

    rule: UpdateRule
    kinds: tuple[Kind, ...]
    num_pairs: int = 12
    num_lives: int = 4
    std: float = 0.03

    def __post_init__(self) -> None:
        if not self.kinds or self.num_pairs < 1 or self.num_lives < 1 or not self.std > 0:
            raise ValueError(
                "evolution needs a kind of life, a pair, a life and a positive std; got "
                f"{len(self.kinds)} kinds, num_pairs={self.num_pairs}, num_lives={self.num_lives}, std={self.std}."
            )

    @property
    def module(self) -> nn.Module:
        return self.rule

    def init(self, theta: Theta, generator: Generator) -> dict[str, Any]:
        return {}

    @torch.no_grad()
    def estimate(self, theta: Theta, state: Any, generator: Generator) -> tuple[MetaGradient, Any]:
        pairs = self.num_pairs
        kind = self.kinds[int(torch.randint(len(self.kinds), (), generator=generator))]
        epsilon = {name: self.std * torch.randn(pairs, *p.shape, generator=generator) for name, p in theta.items()}
        tried = {
            name: torch.cat([p + epsilon[name], p - epsilon[name]]).repeat_interleave(self.num_lives, dim=0)
            for name, p in theta.items()
        }
        scores = kind.scores(self.rule, generator, 2 * pairs * self.num_lives, copies=2, theta=tried)
        missed = 1.0 - scores.view(2, pairs, self.num_lives).mean(dim=-1)
        share = (_ranks(missed.flatten()).view(2, pairs)[0] - _ranks(missed.flatten()).view(2, pairs)[1]) / pairs
        grads = {name: torch.tensordot(share.to(e.dtype), e, dims=1) / (2 * self.std**2) for name, e in epsilon.items()}
        return MetaGradient(grads, missed.mean(), {"spread": missed.std()}), state


def _ranks(x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """From -1/2, of the least, to 1/2; equal ones share theirs."""
    below = (x.unsqueeze(0) < x.unsqueeze(1)).sum(dim=1) + 0.5 * ((x.unsqueeze(0) == x.unsqueeze(1)).sum(dim=1) - 1)
    return below / max(1, len(x) - 1) - 0.5

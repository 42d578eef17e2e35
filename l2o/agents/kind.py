"""Kinds of lives: what is lived in, by whom, and how they learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.agents.environments.base import Environment
from l2o.agents.lifetime import Lifetimes, Lives
from l2o.agents.losses import Hyperparameters
from l2o.agents.policy import ActorCritic
from l2o.agents.ppo import PPO
from l2o.rules.base import UpdateRule
from l2o.types import Params, Theta

LOOKS = 5
"""At a life, from its first to its last moment, when whole episodes tell what it can."""


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

    @property
    def policy(self) -> ActorCritic:
        """What is trained."""
        return ActorCritic.of(self.environment, self.hidden)

    def lifetimes(self, rule: UpdateRule, first: Params | None = None) -> Lifetimes:
        """Lives of the kind.

        Arguments:
            rule: how policies learn.
            first: weights that they begin with; None: fresh ones.
        """
        return Lifetimes(self.environment, self.policy, rule, self.algorithm, first)

    def scores(
        self,
        rule: UpdateRule,
        generator: Generator,
        num: int,
        copies: int = 1,
        theta: Theta | None = None,
        hyperparameters: Hyperparameters | None = None,
        first: Params | None = None,
        episodes: int = 0,
    ) -> Float[Tensor, " num"]:
        """The share of the possible return, in [0, 1], averaged over each of `num` lives: the area under its curve.

        By what shows in the lives themselves, which costs nothing and is too high where episodes outlast them; or, with
        `episodes`, by whole ones that are played for that alone.

        Arguments:
            copies: so many blocks of lives with the same worlds, policies and chances (see `Lifetimes.start`).
            theta: the rule's own if None; with a leading axis, one for each life.
            hyperparameters: in place of the kind's.
            first: see `lifetimes`.
            episodes: so many, fresh ones, at each of `LOOKS` looks at a life; between looks the curve is a line.
        """
        hyper = self.hyperparameters if hyperparameters is None else hyperparameters
        lifetimes = self.lifetimes(rule, first)
        if not episodes:
            curves = lifetimes.run(hyper, num, self.num_iterations, generator, theta, copies)
            return self.environment.share(curves.area)
        theta = dict(rule.named_parameters()) if theta is None else theta

        def advance(i: int, lives: Lives) -> Lives:
            return lifetimes.advance(theta, lives, hyper, generator, copies)[0]

        return self.whole_area(lifetimes, advance, num, episodes, generator, copies)

    @torch.no_grad()
    def whole_area(
        self,
        lifetimes: Lifetimes,
        advance: Callable[[int, Lives], Lives],
        num: int,
        episodes: int,
        generator: Generator,
        copies: int = 1,
    ) -> Float[Tensor, " num"]:
        """What `scores` are by whole episodes, of lives that go on by `advance(iteration, lives)`."""
        lives, found, looks = lifetimes.start(num, self.num_iterations, generator, copies), [], self.looks()
        for i in range(self.num_iterations + 1):
            if i in looks:
                found.append(lifetimes.whole_returns(lives, episodes, generator, copies))
            if i < self.num_iterations:
                lives = advance(i, lives)
        return self.environment.share(torch.trapezoid(torch.stack(found), torch.tensor(looks), dim=0) / looks[-1])

    def looks(self) -> list[int]:
        """How many iterations a life has lived at each look at it, evenly from none to all."""
        return sorted({round(i * self.num_iterations / (LOOKS - 1)) for i in range(LOOKS)})


def one_of(kinds: Sequence[Kind], generator: Generator) -> Kind:
    """One of several kinds, all equally likely."""
    return kinds[int(torch.randint(len(kinds), (), generator=generator))]

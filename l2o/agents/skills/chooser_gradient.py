"""The meta-gradient of a chooser, over whole lifetimes of practice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.func import functional_call

from l2o.agents.advantages import discounted_sum, normalised
from l2o.agents.policy import Categorical
from l2o.agents.skills.curriculum import Curriculum, History, lifetimes
from l2o.agents.skills.learned_chooser import LearnedChooser, features
from l2o.estimators.base import GradientEstimator, MetaGradient
from l2o.types import Theta


class ChooserState(NamedTuple):
    """How many estimates have been made; learners are drawn afresh for each."""

    num_estimates: Int[Tensor, ""]


@dataclass(frozen=True)
class ChooserGradient(GradientEstimator):
    """Taught at first, then by consequences: the meta-loss is 1 - area, of mean competence over the budget.

    For the first `taught` estimates the chooser's output is regressed on what a practice of each skill would truly gain
    there, which is known in meta-training only. It then is as good as greedy choices can be that do not know it. From
    there on policy gradients (REINFORCE): copies of the same learner practise side by side, and what a choice is worth
    is the competence that its copy gained afterwards, for as long as it will be had, beyond the copies' mean.

    Arguments:
        chooser: what is trained.
        curriculum: learners that practise; where it knows no gains, `taught` must be 0.
        num_lanes: lifetimes of an estimate.
        copies: of each learner.
        taught: estimates with a teacher.
        reach: practices over which a choice is credited (its decay is 1 - 1 / reach).
        entropy: weight of the entropy of choices.
        num_samples: practices of each lifetime that a gradient is taken of, spread evenly.
        every: see `lifetimes`.
    """

    chooser: LearnedChooser
    curriculum: Curriculum
    num_lanes: int = 256
    copies: int = 8
    taught: int = 60
    reach: float = 30.0
    entropy: float = 0.003
    num_samples: int = 24
    every: int = 1

    def __post_init__(self) -> None:
        if self.num_lanes % self.copies or self.copies < 2:
            raise ValueError(
                "num_lanes must be a multiple of copies, and copies at least 2, because each is compared with the "
                f"others; got num_lanes={self.num_lanes}, copies={self.copies}."
            )

    @property
    def module(self) -> nn.Module:
        return self.chooser

    def init(self, theta: Theta, generator: Generator) -> ChooserState:
        return ChooserState(torch.zeros((), dtype=torch.int64))

    def estimate(self, theta: Theta, state: ChooserState, generator: Generator) -> tuple[MetaGradient, ChooserState]:
        chooser, leaves = self.chooser, {name: p.detach().requires_grad_() for name, p in theta.items()}
        with torch.no_grad():
            for name, parameter in chooser.named_parameters():
                parameter.copy_(theta[name])
        history = lifetimes(self.curriculum, chooser, self.num_lanes, generator, self.every, self.copies)
        total = len(history.skill)
        first = int(torch.randint(max(1, total // self.num_samples), (), generator=generator))
        which = torch.arange(first, total, max(1, total // self.num_samples))
        logits = functional_call(chooser, leaves, (features(history.records._make(x[which] for x in history.records)),))
        if int(state.num_estimates) < self.taught:
            loss = self._taught(logits, history, which)
        else:
            loss = self._reinforced(logits, history, which)
        grads = torch.autograd.grad(loss, list(leaves.values()))
        found = dict(zip(leaves, grads, strict=True))
        return MetaGradient(found, 1.0 - history.area.mean(), {}), ChooserState(state.num_estimates + 1)

    def _taught(self, logits: Tensor, history: History, which: Tensor) -> Float[Tensor, ""]:
        if history.gain is None:
            raise ValueError(f"taught must be 0, for {type(self.curriculum).__name__} does not know what is gained.")
        error = logits / self.chooser.sharpness - 4.0 * history.gain[which]
        return error[history.active[which]].square().mean()

    def _reinforced(self, logits: Tensor, history: History, which: Tensor) -> Float[Tensor, ""]:
        reward = _rewards(history)
        worth = discounted_sum(reward, torch.full_like(reward, 1.0 - 1.0 / self.reach))
        groups = worth.unflatten(-1, (self.copies, -1))
        beyond = (groups - groups.mean(dim=-2, keepdim=True)).flatten(-2)
        active = history.active[which]
        choices = Categorical(logits[active])
        log_prob = choices.log_prob(history.skill[which][active])
        policy = -(log_prob * normalised(beyond[which][active])).mean()
        return policy - self.entropy * choices.entropy().mean()


def _rewards(history: History) -> Float[Tensor, "practices lanes"]:
    """What each practice adds to the area: what it gained, for as long as it is had."""
    mean = history.mean
    gained = mean.diff(dim=0, prepend=torch.zeros_like(mean[:1]))
    gained[0] = 0.0  # what was there before
    before = torch.cat([torch.zeros_like(history.spent[:1]), history.spent[:-1]])
    return gained * (1.0 - before).clamp(min=0.0)

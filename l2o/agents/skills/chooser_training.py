"""How a chooser is meta-learned: from whole lifetimes of practice, many side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from l2o.agents.advantages import discounted_sum, normalised
from l2o.agents.losses import ppo_loss
from l2o.agents.policy import Categorical
from l2o.agents.skills.curriculum import Curriculum, History, lifetimes
from l2o.agents.skills.learned_chooser import LearnedChooser, features


@dataclass(frozen=True)
class ChooserTraining:
    """Taught at first, then by consequences, to make the area under the curve of mean competence large.

    In `taught` rounds the chooser's output is regressed on what a practice of each skill would truly gain, known in
    meta-training only, in the states that its own choices lead to. It then is as good as greedy choices can be that do
    not know it. In the others it is trained by PPO: copies of the same learner practise side by side, and what a choice
    is worth is what its copy gained afterwards, for as long as that will be had, beyond the copies' mean.

    Arguments:
        curriculum: learners that practise; where nobody knows gains, `taught` must be 0.
        taught, rewarded: rounds of each kind.
        num_lanes: lifetimes of a round.
        copies: of each learner.
        reach: practices over which a choice is credited (discounted by 1 - 1 / reach).
        learning_rate: Adam's, of both kinds; each falls to a tenth of it along a line.
        num_updates: of a round, each from another part of its samples.
        num_samples: practices of each lifetime that are learned from, spread evenly.
        entropy: weight of the entropy of choices.
        every: see `lifetimes`.
    """

    curriculum: Curriculum
    taught: int = 80
    rewarded: int = 80
    num_lanes: int = 256
    copies: int = 8
    reach: float = 30.0
    learning_rate: tuple[float, float] = (4e-3, 1e-3)
    num_updates: int = 8
    num_samples: int = 24
    entropy: float = 0.002
    every: int = 1

    def __post_init__(self) -> None:
        if self.num_lanes % self.copies or self.copies < 2:
            raise ValueError(
                "num_lanes must be a multiple of copies, and copies at least 2, because each is compared with the "
                f"others; got num_lanes={self.num_lanes}, copies={self.copies}."
            )

    def run(
        self, chooser: LearnedChooser, generator: Generator, show: Callable[[int, float], None] | None = None
    ) -> list[float]:
        """Train a chooser in place; returns the mean area of each round.

        Arguments:
            show: is told the round and its area.
        """
        areas = []
        rounds = [True] * self.taught + [False] * self.rewarded
        optimizer = torch.optim.Adam(chooser.parameters())
        for i, taught in enumerate(rounds):
            done = i / self.taught if taught else (i - self.taught) / self.rewarded
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate[0 if taught else 1] * (1.0 - 0.9 * done)
            history = lifetimes(self.curriculum, chooser, self.num_lanes, generator, self.every, self.copies)
            samples = self._samples(chooser, history, generator)
            for index in torch.randperm(len(samples.skill), generator=generator).chunk(self.num_updates):
                part = Samples(*(None if x is None else x[index] for x in samples))
                loss = _regression(chooser, part) if taught else self._surrogate(chooser, part)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(chooser.parameters(), 1.0)
                optimizer.step()
            areas.append(float(history.area.mean()))
            if show is not None:
                show(i, areas[-1])
        return areas

    def _samples(self, chooser: LearnedChooser, history: History, generator: Generator) -> Samples:
        total = len(history.skill)
        stride = max(1, total // self.num_samples)
        first = int(torch.randint(stride, (), generator=generator))
        which = torch.arange(first, total, stride)
        active = history.active[which]
        reward = _rewards(history)
        worth = discounted_sum(reward, torch.full_like(reward, 1.0 - 1.0 / self.reach))
        groups = worth.unflatten(-1, (self.copies, -1))
        beyond = (groups - groups.mean(dim=-2, keepdim=True)).flatten(-2)[which]
        skill = history.skill[which][active]
        with torch.no_grad():
            z = features(history.records._make(x[which] for x in history.records))[active]
            log_prob = Categorical(chooser(z)).log_prob(skill)
        gain = None if history.gain is None else history.gain[which][active]
        return Samples(z, skill, log_prob, normalised(beyond[active]), gain)

    def _surrogate(self, chooser: LearnedChooser, part: Samples) -> Float[Tensor, ""]:
        choices = Categorical(chooser(part.features))
        zero = torch.zeros_like(part.advantage)
        ratio = choices.log_prob(part.skill) - part.log_prob
        return ppo_loss(ratio, part.advantage, choices.entropy(), zero, zero, 0.2, self.entropy).total


class Samples(NamedTuple):
    """Choices to learn from."""

    features: Float[Tensor, "n skills features"]
    skill: Int[Tensor, " n"]
    log_prob: Float[Tensor, " n"]
    advantage: Float[Tensor, " n"]
    gain: Float[Tensor, "n skills"] | None


def _regression(chooser: LearnedChooser, part: Samples) -> Float[Tensor, ""]:
    if part.gain is None:
        raise ValueError("taught must be 0 where nobody knows what a practice gains.")
    return (chooser(part.features) / chooser.sharpness - 4.0 * part.gain).square().mean()


def _rewards(history: History) -> Float[Tensor, "practices lanes"]:
    """What each practice adds to the area: what it gained, for as long as it is had."""
    mean = history.mean
    gained = mean.diff(dim=0, prepend=mean[:1])
    before = torch.cat([torch.zeros_like(history.spent[:1]), history.spent[:-1]])
    return gained * (1.0 - before).clamp(min=0.0)

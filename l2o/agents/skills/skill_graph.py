"""A simulated learner on random skill graphs, where the best order is known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from l2o.agents.skills.curriculum import Curriculum, Learners
from l2o.agents.skills.record import Practice

FIRST = 0.02
"""Competence before any practice."""


@dataclass(frozen=True)
class SkillGraph(Curriculum):
    """Practising skill i once raises its success rate c_i by rate_i (1 - c_i) times the product of its prerequisites'.

    Graphs are chains with gaps and further edges. Some skills cannot be learned and succeed by a constant chance that
    is different for each, which looks like progress to those who look at few trials.

    Arguments:
        size: skills.
        budget: practices; each costs 1.
        chained: probability that a skill needs the one before it.
        num_edges: further prerequisites of a skill: each earlier one with probability `num_edges` / `size`.
        unlearnable: probability that a skill cannot be learned.
    """

    size: int = 12
    budget: float = 240.0
    chained: float = 0.7
    num_edges: float = 1.5
    unlearnable: float = 0.25

    def __post_init__(self) -> None:
        if self.size < 2 or not self.budget >= 1.0:
            raise ValueError(f"a graph needs 2 skills and a practice; got size={self.size}, budget={self.budget}.")

    @property
    def num_skills(self) -> int:
        return self.size

    @property
    def max_practices(self) -> int:  # type: ignore[override]
        """The budget: each practice costs 1."""
        return int(self.budget)

    def start(self, num: int, generator: Generator) -> Learners:
        size = self.size
        earlier = torch.tril(torch.ones(size, size, dtype=torch.bool), -1)
        needs = (torch.rand(num, size, size, generator=generator) < self.num_edges / size) & earlier
        chain = torch.rand(num, size - 1, generator=generator) < self.chained
        index = torch.arange(size - 1)
        needs[:, index + 1, index] = chain
        learnable = torch.rand(num, size, generator=generator) >= self.unlearnable
        return {
            "needs": needs & learnable.unsqueeze(-1) & learnable.unsqueeze(-2),
            "learnable": learnable,
            "rate": 0.15 + 0.35 * torch.rand(num, size, generator=generator),
            "chance": torch.rand(num, size, generator=generator),
            "competence": torch.full((num, size), FIRST),
        }

    def practise(
        self, learners: Learners, skill: Int[Tensor, " lanes"], generator: Generator
    ) -> tuple[Learners, Practice]:
        index, competence = skill.unsqueeze(-1), learners["competence"]
        shown = torch.where(learners["learnable"], competence, learners["chance"]).gather(-1, index).squeeze(-1)
        succeeds = (torch.rand(len(skill), generator=generator) < shown).float()
        gained = self.gain(learners).gather(-1, index)
        after = {**learners, "competence": competence.scatter_add(-1, index, gained)}
        one = torch.ones_like(succeeds)
        return after, Practice(one, succeeds, one)

    def competence(self, learners: Learners, generator: Generator) -> Float[Tensor, "lanes skills"]:
        return learners["competence"]

    def learnable(self, learners: Learners) -> Bool[Tensor, "lanes skills"]:
        return learners["learnable"]

    def gain(self, learners: Learners) -> Float[Tensor, "lanes skills"]:
        """What a practice of each skill would add to its success rate now."""
        competence = learners["competence"]
        logs = torch.where(learners["needs"], competence.clamp(min=1e-4).log().unsqueeze(-2), 0.0)
        return learners["rate"] * logs.sum(dim=-1).exp() * (1.0 - competence) * learners["learnable"]

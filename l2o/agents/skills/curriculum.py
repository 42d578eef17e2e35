"""Lifetimes of practice: a learner, its skills, and a chooser that says which one comes next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from l2o.agents.skills.choosers import Chooser
from l2o.agents.skills.record import Practice, Record
from l2o.inner_loop import repeat_lanes
from l2o.types import tree_stack

Learners: TypeAlias = Any
"""Learners side by side: a tree of tensors with a leading axis of lanes."""


class Curriculum(ABC):
    """A family of learners with the same number of skills; a frozen dataclass, and every method pure.

    Attributes:
        budget: practice ends when so much has been spent (see `Practice.cost`).
        max_practices: or after so many.
    """

    budget: float
    max_practices: int

    @property
    @abstractmethod
    def num_skills(self) -> int:
        """Skills of a learner."""

    @abstractmethod
    def start(self, num: int, generator: Generator) -> Learners:
        """Learners that have practised nothing."""

    @abstractmethod
    def practise(
        self, learners: Learners, skill: Int[Tensor, " lanes"], generator: Generator
    ) -> tuple[Learners, Practice]:
        """Each learner practises a skill once."""

    @abstractmethod
    def competence(self, learners: Learners, generator: Generator) -> Float[Tensor, "lanes skills"]:
        """True success rates, which choosers do not see."""

    @abstractmethod
    def learnable(self, learners: Learners) -> Bool[Tensor, "lanes skills"]:
        """Which skills can be learned at all; choosers do not see it."""

    def gain(self, learners: Learners) -> Float[Tensor, "lanes skills"] | None:
        """What a practice of each skill would add to its success rate now; None where nobody can tell."""
        return None


class History(NamedTuple):
    """A batch of lifetimes, time first.

    records: what the chooser saw before each choice, stacked.
    skill: what it chose.
    competence: of every skill after the practice, the last one measured (see `every`).
    spent: the budget's share that was gone then.
    active: the practice took place: the budget was not spent before.
    gain: what a practice of each skill would have gained, if that is known.
    """

    records: Record
    skill: Int[Tensor, "practices lanes"]
    competence: Float[Tensor, "practices lanes skills"]
    learnable: Bool[Tensor, "lanes skills"]
    spent: Float[Tensor, "practices lanes"]
    active: Bool[Tensor, "practices lanes"]
    gain: Float[Tensor, "practices lanes skills"] | None = None

    @property
    def mean(self) -> Float[Tensor, "practices lanes"]:
        """Mean competence over learnable skills."""
        counts = self.learnable.float()
        return (self.competence * counts).sum(dim=-1) / counts.sum(dim=-1).clamp(min=1.0)

    @property
    def area(self) -> Float[Tensor, " lanes"]:
        """Mean competence over the budget: that after a practice counts for as much as the practice took of it."""
        widths = self.spent.clamp(max=1.0).diff(dim=0, prepend=torch.zeros_like(self.spent[:1]))
        mean = self.mean
        return (mean * widths).sum(dim=0) + mean[-1] * (1.0 - self.spent[-1]).clamp(min=0.0)

    def mastered(self, level: float = 0.9) -> Float[Tensor, " lanes"]:
        """The share of the budget after which every learnable skill was above `level` for the first time; else 1."""
        done = ((self.competence >= level) | ~self.learnable).all(dim=-1)
        return torch.where(done, self.spent.clamp(max=1.0), 1.0).amin(dim=0)


@torch.no_grad()
def lifetimes(
    curriculum: Curriculum, chooser: Chooser, num: int, generator: Generator, every: int = 1, copies: int = 1
) -> History:
    """Practise until every lane's budget is spent.

    Arguments:
        every: competence is measured after so many practices.
        copies: so many times the same learners, one block after the other; chances and choices are their own.

    Raises:
        ValueError: sizes that do not fit.
    """
    if num < 1 or every < 1 or copies < 1 or num % copies:
        raise ValueError(
            "num must be a positive multiple of copies, and every at least 1; got "
            f"num={num}, copies={copies}, every={every}."
        )
    learners = repeat_lanes(curriculum.start(num // copies, generator), copies)
    record, spent = Record.empty(num, curriculum.num_skills), torch.zeros(num)
    learnable, competence = curriculum.learnable(learners), curriculum.competence(learners, generator)
    steps = []
    for i in range(curriculum.max_practices):
        active = spent < 1.0
        if not active.any():
            break
        gain = curriculum.gain(learners)
        skill = chooser.choose(record, torch.rand(num, curriculum.num_skills, generator=generator))
        learners, practice = curriculum.practise(learners, skill, generator)
        spent = spent + practice.cost / curriculum.budget
        if (i + 1) % every == 0:
            competence = curriculum.competence(learners, generator)
        steps.append((record, skill, competence, spent, active, gain))
        record = record.updated(skill, practice, spent.clamp(max=1.0))
    records, skills, competences, shares, actives, gains = zip(*steps, strict=True)
    return History(
        tree_stack(records),
        torch.stack(skills),
        torch.stack(competences),
        learnable,
        torch.stack(shares),
        torch.stack(actives),
        None if gains[0] is None else torch.stack(gains),
    )

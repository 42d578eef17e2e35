"""What an agent knows of its skills: counts of trials and successes, forgotten at several speeds."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

DECAYS = (0.7, 0.9, 0.97)
"""By which older counts are multiplied at each practice of a skill: the fast, the middle and the slow memory."""

FAST, SLOW = 0, 2


class Practice(NamedTuple):
    """What came of a practice, by lane.

    trials: attempts made.
    successes: how many of them succeeded.
    cost: environment steps they took, or whatever the budget is counted in.
    """

    trials: Float[Tensor, " lanes"]
    successes: Float[Tensor, " lanes"]
    cost: Float[Tensor, " lanes"]


class Record(NamedTuple):
    """Statistics of every skill, by lane; a value that `updated` replaces.

    trials, successes: counted with each of `DECAYS`.
    practices: how often the skill was chosen.
    since: practices of any skill since its last; since the start if it never was.
    known: the sum of all skills' fast success rates when it was last practised: what has been learned elsewhere since
        then may have made it learnable.
    spent: the share of the budget that is gone, in [0, 1].
    """

    trials: Float[Tensor, "*batch skills 3"]
    successes: Float[Tensor, "*batch skills 3"]
    practices: Float[Tensor, "*batch skills"]
    since: Float[Tensor, "*batch skills"]
    known: Float[Tensor, "*batch skills"]
    spent: Float[Tensor, "*batch"]

    @classmethod
    def empty(cls, num_lanes: int, num_skills: int) -> Record:
        """Nothing was practised yet."""
        zeros = torch.zeros(num_lanes, num_skills)
        counts = torch.zeros(num_lanes, num_skills, len(DECAYS))
        return cls(counts, counts, zeros, zeros, zeros, torch.zeros(num_lanes))

    def rate(self) -> Float[Tensor, "*batch skills 3"]:
        """Means of the posteriors Beta(1/2 + successes, 1/2 + failures) over success rates (Jeffreys' prior)."""
        return (self.successes + 0.5) / (self.trials + 1.0)

    def variance(self) -> Float[Tensor, "*batch skills 3"]:
        """Variances of these posteriors."""
        rate = self.rate()
        return rate * (1.0 - rate) / (self.trials + 2.0)

    def updated(self, skill: Int[Tensor, " lanes"], practice: Practice, spent: Float[Tensor, "*batch"]) -> Record:
        """The record after a practice of one skill in each lane."""
        chosen = torch.nn.functional.one_hot(skill, self.since.shape[-1]).bool()
        decay = torch.where(chosen.unsqueeze(-1), torch.tensor(DECAYS, device=skill.device), 1.0)
        after = self._replace(
            trials=decay * self.trials + _there(chosen, practice.trials).unsqueeze(-1),
            successes=decay * self.successes + _there(chosen, practice.successes).unsqueeze(-1),
            practices=self.practices + chosen,
            since=torch.where(chosen, 0.0, self.since + 1.0),
            spent=spent,
        )
        return after._replace(known=torch.where(chosen, after.total().unsqueeze(-1), self.known))

    def total(self) -> Float[Tensor, "*batch"]:
        """The sum of all skills' fast success rates."""
        return torch.where(self.practices > 0, self.rate()[..., FAST], 0.0).sum(dim=-1)


def _there(chosen: Bool[Tensor, "lanes skills"], value: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch skills"]:
    return torch.where(chosen, value.unsqueeze(-1), 0.0)

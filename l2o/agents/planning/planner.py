"""Planners of action sequences, all behind `plan(model, state, budget)`, a batch of lanes at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.agents.environments.base import State
from l2o.agents.planning.model import Model

SMALLEST = 1e-3
"""Deviations do not fall below this share of the limit, so that a search never ends."""


class Plan(NamedTuple):
    """Actions of each lane, and what the model says that they cost."""

    actions: Float[Tensor, "lanes horizon a"]
    cost: Float[Tensor, " lanes"]

    def shifted(self) -> Float[Tensor, "lanes horizon a"]:
        """The plan a step later, its last action repeated: where the next search may begin."""
        return torch.cat([self.actions[:, 1:], self.actions[:, -1:]], dim=1)


class Planner(ABC):
    """Searches for cheap plans; a frozen dataclass, and `plan` a function of its arguments and the generator."""

    @abstractmethod
    def plan(
        self,
        model: Model,
        state: State,
        budget: int,
        generator: Generator,
        first: Float[Tensor, "lanes horizon a"] | None = None,
    ) -> Plan:
        """A plan for every lane.

        Arguments:
            budget: rollouts of the model for each lane; a gradient counts as 3.
            first: where the search begins; zeros if None.

        Raises:
            ValueError: the budget does not allow a search.
        """


@dataclass(frozen=True)
class CEM(Planner):
    """The cross-entropy method (Rubinstein, 1999; de Boer et al., 2005): sample, keep the best, move there.

    The best plan met is returned.

    Arguments:
        num_iterations: the budget is shared among them.
        deviation: of the first samples, in units of the limit.
        elite: share of samples that are kept.
        momentum: of mean and deviation.
    """

    num_iterations: int = 3
    deviation: float = 0.5
    elite: float = 0.2
    momentum: float = 0.1

    def __post_init__(self) -> None:
        if self.num_iterations < 1 or not (self.deviation > 0 and 0 < self.elite <= 1 and 0 <= self.momentum < 1):
            raise ValueError(
                "CEM needs an iteration, deviation > 0, elite in (0, 1] and momentum in [0, 1); got "
                f"{self.num_iterations}, {self.deviation}, {self.elite}, {self.momentum}."
            )

    def plan(
        self,
        model: Model,
        state: State,
        budget: int,
        generator: Generator,
        first: Float[Tensor, "lanes horizon a"] | None = None,
    ) -> Plan:
        num = _samples(budget, self.num_iterations, 2)
        elite = max(2, round(num * self.elite))
        mean = _begin(model, state, first)
        deviation = torch.full_like(mean, self.deviation * model.limit)
        best = Plan(mean, torch.full((len(mean),), torch.inf))
        for _ in range(self.num_iterations):
            candidates = _around(mean, deviation, num, model.limit, generator)
            best, costs = _judge(model, state, candidates, best)
            index = costs.topk(elite, dim=1, largest=False).indices[..., None, None]
            kept = candidates.gather(1, index.expand(-1, -1, *candidates.shape[2:]))
            spread = kept.std(dim=1, correction=0).clamp(min=SMALLEST * model.limit)
            mean = self.momentum * mean + (1.0 - self.momentum) * kept.mean(dim=1)
            deviation = self.momentum * deviation + (1.0 - self.momentum) * spread
        return best


@dataclass(frozen=True)
class MPPI(Planner):
    """Model predictive path integrals (Williams et al., 2017, https://arxiv.org/abs/1707.02342).

    The mean moves to the average of samples, weighed by exp(-(cost - least) / (temperature * spread of costs)). The
    best plan met is returned.

    Arguments:
        num_iterations: the budget is shared among them.
        deviation: of samples, in units of the limit; `shrink` times that in each further iteration.
        temperature: in units of the deviation of a lane's costs.
        shrink: see there.
    """

    num_iterations: int = 3
    deviation: float = 0.5
    temperature: float = 0.3
    shrink: float = 0.7

    def __post_init__(self) -> None:
        if self.num_iterations < 1 or not (self.deviation > 0 and self.temperature > 0 and 0 < self.shrink <= 1):
            raise ValueError(
                "MPPI needs an iteration, deviation > 0, temperature > 0 and shrink in (0, 1]; got "
                f"{self.num_iterations}, {self.deviation}, {self.temperature}, {self.shrink}."
            )

    def plan(
        self,
        model: Model,
        state: State,
        budget: int,
        generator: Generator,
        first: Float[Tensor, "lanes horizon a"] | None = None,
    ) -> Plan:
        num = _samples(budget - 1, self.num_iterations, 1)
        mean = _begin(model, state, first)
        best = Plan(mean, torch.full((len(mean),), torch.inf))
        for i in range(self.num_iterations):
            deviation = torch.full_like(mean, self.deviation * model.limit * self.shrink**i)
            candidates = _around(mean, deviation, num, model.limit, generator)
            best, costs = _judge(model, state, candidates, best)
            unit = self.temperature * costs.std(dim=1, correction=0, keepdim=True).clamp(min=1e-8)
            weight = (-(costs - costs.amin(dim=1, keepdim=True)) / unit).softmax(dim=1)
            mean = (weight[..., None, None] * candidates).sum(dim=1)
        return _judge(model, state, mean.unsqueeze(1), best)[0]


def _samples(budget: int, num_iterations: int, least: int) -> int:
    """Of each iteration."""
    if budget < least * num_iterations:
        raise ValueError(
            f"budget must allow {least} rollouts in each of {num_iterations} iterations; got {budget} to share."
        )
    return budget // num_iterations


def _begin(model: Model, state: State, first: Tensor | None) -> Float[Tensor, "lanes horizon a"]:
    """Where a search begins."""
    lanes = len(next(iter(state.values())))
    shape = (lanes, model.horizon, model.action_size)
    if first is not None and first.shape != shape:
        raise ValueError(f"a plan to begin with must have shape {shape}; got {tuple(first.shape)}.")
    return torch.zeros(shape) if first is None else first


def _around(
    mean: Tensor, deviation: Tensor, num: int, limit: float, generator: Generator
) -> Float[Tensor, "lanes n horizon a"]:
    """Candidates near the mean, which is the first of them: so a search is never worse than what it begins with."""
    noise = torch.randn(len(mean), num, *mean.shape[1:], generator=generator)
    noise[:, 0] = 0.0
    return (mean.unsqueeze(1) + deviation.unsqueeze(1) * noise).clamp(-limit, limit)


@torch.no_grad()
def _judge(model: Model, state: State, candidates: Tensor, best: Plan) -> tuple[Plan, Float[Tensor, "lanes n"]]:
    """What candidates cost, and the best so far. What is not finite counts as infinitely dear."""
    costs = model.costs(state, candidates)
    costs = torch.where(costs.isfinite(), costs, 1e30)
    cost, index = costs.min(dim=1)
    better = cost < best.cost
    found = candidates[torch.arange(len(cost)), index]
    return Plan(torch.where(better[:, None, None], found, best.actions), torch.minimum(cost, best.cost)), costs

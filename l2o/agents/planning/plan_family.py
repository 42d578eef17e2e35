"""Plans as tasks: what a rule learns on that is to search within a few steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.agents.environments.base import State, World
from l2o.agents.planning.gradient_planner import actions_of, logits_of
from l2o.agents.planning.model import ENDED, Model
from l2o.agents.planning.planner import Planner
from l2o.tasks.base import Task, TaskFamily
from l2o.types import Batch, Params, tree_map

Make = Callable[[World], Model]
"""The model of a batch of worlds; a module-level function."""


class Met(NamedTuple):
    """Worlds and states, a lane each, and the plans that a search there begins with."""

    world: World
    state: State
    first: Float[Tensor, "lanes horizon a"]


@dataclass(frozen=True)
class PlanTask(Task):
    """One plan as a task.

    Arguments:
        make: see `Make`.
        world, state, first: see `Met`; without an axis of lanes.
    """

    make: Make
    world: World
    state: State
    first: Float[Tensor, "horizon a"]

    def init(self, generator: Generator) -> Params:
        model, met = self._one()
        return {"logits": logits_of(met.first, model).squeeze(0)}

    def sample_batch(self, generator: Generator) -> Batch:
        return None

    def loss(self, params: Params, batch: Batch) -> Float[Tensor, ""]:
        model, met = self._one()
        return model.cost(met.state, actions_of(params["logits"].unsqueeze(0), model)).squeeze(0)

    def _one(self) -> tuple[Model, Met]:
        """Both with one lane."""
        met = tree_map(lambda x: x.unsqueeze(0), Met(self.world, self.state, self.first))
        return self.make(met.world), met


@dataclass(frozen=True)
class PlanFamily(TaskFamily):
    """Plans in random worlds, from the start of an episode, and from where a planner came in others.

    A search in the middle of an episode is another task than its first: it begins with what is left of the last plan.
    A rule that has learned on first searches alone may be worse at the others than one that never learned.

    Arguments:
        make: see `Make`.
        sample_world: draws so many worlds, and the states that episodes begin in.
        met: what planners have met (see `met_by`); None: nothing.
        share: of tasks that are drawn from there.
    """

    make: Make
    sample_world: Callable[[Generator, int], tuple[World, State]]
    met: Met | None = None
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share is a part of tasks, in [0, 1]; got {self.share}.")

    def sample(self, generator: Generator) -> PlanTask:
        if self.met is None or float(torch.rand((), generator=generator)) >= self.share:
            met, lane = _at_rest(self.make, *self.sample_world(generator, 1)), 0
        else:
            met, lane = self.met, int(torch.randint(len(self.met.first), (), generator=generator))
        return PlanTask(self.make, *tree_map(lambda x: x[lane], met))


@torch.no_grad()
def met_by(
    planner: Planner, family: PlanFamily, num_worlds: int, num_steps: int, budget: int, generator: Generator
) -> Met:
    """What a planner meets that acts by its plans in fresh worlds, each search beginning where the last one ended.

    Rules learn from what they meet themselves when a family is made anew with this, now and then in meta-training
    (Ross et al., 2011, https://arxiv.org/abs/1011.0686).

    Arguments:
        num_worlds: of the family.
        num_steps: plans in each, the first included; fewer where an episode is over before.
        budget: see `Planner.plan`.
    """
    if num_worlds < 1 or num_steps < 1:
        raise ValueError(f"there must be a world and a step; got {num_worlds} and {num_steps}.")
    now = _at_rest(family.make, *family.sample_world(generator, num_worlds))
    model, names, found = family.make(now.world), list(now.state), []
    for _ in range(num_steps):
        there = ~now.state.get(ENDED, torch.zeros(num_worlds, dtype=torch.bool))
        state = {name: now.state[name] for name in names}
        found.append(tree_map(lambda x, there=there: x[there], Met(now.world, state, now.first)))
        plan = planner.plan(model, now.state, budget, generator, now.first)
        state, _ = model.step(now.state, plan.actions[:, 0])
        now = Met(now.world, state, plan.shifted())
    return tree_map(lambda *x: torch.cat(x), *found)


def _at_rest(make: Make, world: World, state: State) -> Met:
    """With plans of doing nothing."""
    model, lanes = make(world), len(next(iter(state.values())))
    return Met(world, state, torch.zeros(lanes, model.horizon, model.action_size))

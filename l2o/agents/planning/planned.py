"""Acting with a plan: what a policy would do is where a search begins, and what the search finds is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from l2o.agents.environments.base import Environment, State, World
from l2o.agents.environments.wrapped import Wrapped
from l2o.agents.planning.gradient_planner import GradientPlanner
from l2o.agents.planning.model import EnvironmentModel, can_plan
from l2o.agents.planning.planner import CEM, MPPI, Planner
from l2o.rules.hand_designed import Adam
from l2o.types import seeded, tree_map

PLANNERS: dict[str, Callable[[], Planner]] = {
    "cem": lambda: CEM(num_iterations=1, deviation=1.0),
    "mppi": lambda: MPPI(num_iterations=1),
    "gradient": lambda: GradientPlanner(Adam(lr=1.0)),
}
"""Planners that an agent may take, each for budgets of a few rollouts."""


@dataclass(frozen=True, eq=False)
class Planned(Wrapped):
    """An environment whose agent thinks before it acts.

    At every step a plan is sought in the environment's own physics, from the state as it is, beginning with the
    policy's action held for the whole of the plan; its first action is done. To the policy that is how its actions
    work: it learns on policy, from what comes of its proposals, and its sizes stay the same.

    Arguments:
        environment: pure, with actions of a box.
        planner: of the search. Its random numbers are the same at every step, so that steps stay pure functions.
        horizon: steps of a plan.
        budget: rollouts of a search (see `Planner.plan`).
    """

    planner: Planner
    horizon: int
    budget: int

    def step(
        self, world: World, state: State, action: Float[Tensor, "*batch a"], noise: Float[Tensor, "*batch s"]
    ) -> tuple[State, Float[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
        return self.environment.step(world, state, self._planned(world, state, action), noise)

    def _planned(self, world: World, state: State, action: Float[Tensor, "*batch a"]) -> Float[Tensor, "*batch a"]:
        batch = action.shape[:-1]
        world, state, action = tree_map(lambda x: x.reshape(-1, *x.shape[len(batch) :]), (world, state, action))
        model = EnvironmentModel(self.environment, world, self.horizon)
        first = action.clamp(-model.limit, model.limit).unsqueeze(1).expand(-1, self.horizon, -1)
        plan = self.planner.plan(model, state, self.budget, seeded(0), first)
        return plan.actions[:, 0].detach().view(*batch, -1)


def planned(environment: Environment, value: dict[str, Any]) -> Environment:
    """The environment for an agent with this planner as its part; as it is, where none can be used.

    Arguments:
        value: {name, horizon, budget}, the name one of `PLANNERS` or none.
    """
    if value["name"] == "none" or not can_plan(environment):
        return environment
    return Planned(environment, PLANNERS[value["name"]](), value["horizon"], value["budget"])

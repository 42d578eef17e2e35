"""What a planner plans with: a model of what actions cost, known or learned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from l2o.agents.environments.base import Box, Environment, State, World

ENDED = "ended"
"""In a state of `EnvironmentModel`, from the first step on: whose episode is over."""


class Model(ABC):
    """What continuous actions lead to and cost; pure and differentiable.

    A state is a dict of tensors with a leading axis of lanes, each a world of its own.

    Attributes:
        horizon: steps of a plan.
        action_size, limit: actions are `action_size` numbers between -limit and limit.
    """

    horizon: int
    action_size: int
    limit: float = 1.0

    @abstractmethod
    def step(self, state: State, action: Float[Tensor, "lanes a"]) -> tuple[State, Float[Tensor, " lanes"]]:
        """The next state, and what the step costs."""

    def final(self, state: State) -> Float[Tensor, "*lanes"]:
        """What the state after the last step costs beyond that."""
        return torch.zeros(())

    def cost(self, state: State, actions: Float[Tensor, "lanes horizon a"]) -> Float[Tensor, " lanes"]:
        """Of a plan a lane, from its state on. One rollout of each lane's budget."""
        total = torch.zeros(len(actions), dtype=actions.dtype)
        for action in actions.unbind(dim=1):
            state, cost = self.step(state, action)
            total = total + cost
        return total + self.final(state)

    def costs(self, state: State, candidates: Float[Tensor, "lanes n horizon a"]) -> Float[Tensor, "lanes n"]:
        """Of several plans a lane."""
        return vmap(self.cost, in_dims=(None, 1), out_dims=1)(state, candidates)


def can_plan(environment: Environment) -> bool:
    """Whether there is a model to search in, and actions that can be searched."""
    return environment.is_pure and isinstance(environment.action_space, Box)


@dataclass(frozen=True, eq=False)
class EnvironmentModel(Model):
    """An environment's own physics, with chances at their middle; a step costs its reward, taken negatively.

    After an episode's end nothing costs anything.

    Arguments:
        environment: pure, with actions of a box.
        world: a world a lane.
        horizon: steps of a plan.
    """

    environment: Environment
    world: World
    horizon: int

    def __post_init__(self) -> None:
        if not can_plan(self.environment) or self.horizon < 1:
            raise ValueError(
                "a model needs a pure environment with actions of a box, as plans are tried out in it, and a step; "
                f"got {self.environment!r}, horizon={self.horizon}."
            )

    @property
    def action_size(self) -> int:  # type: ignore[override]
        """Of the environment's box."""
        return self._box.size

    @property
    def limit(self) -> float:  # type: ignore[override]
        """Of the environment's box."""
        return self._box.limit

    @property
    def _box(self) -> Box:
        space = self.environment.action_space
        assert isinstance(space, Box)
        return space

    def step(self, state: State, action: Float[Tensor, "lanes a"]) -> tuple[State, Float[Tensor, " lanes"]]:
        inner = {name: x for name, x in state.items() if name != ENDED}
        chance = action.new_full((*action.shape[:-1], self.environment.step_noise), 0.5)
        after, reward, terminated = self.environment.step(self.world, inner, action, chance)
        ended = state.get(ENDED, torch.zeros_like(terminated))
        return {**after, ENDED: ended | terminated}, torch.where(ended, 0.0, -reward)

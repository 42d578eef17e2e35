"""Environments made of another one, whose worlds and sights they share."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Generator, Tensor

from l2o.agents.environments.base import Box, Discrete, Environment, State, World


@dataclass(frozen=True, eq=False)
class Wrapped(Environment):
    """The environment but for what a subclass defines otherwise.

    Arguments:
        environment: the one within.
    """

    environment: Environment

    @property
    def max_steps(self) -> int:  # type: ignore[override]
        """As of the environment within."""
        return self.environment.max_steps

    @property
    def reset_noise(self) -> int:  # type: ignore[override]
        """As of the environment within."""
        return self.environment.reset_noise

    @property
    def step_noise(self) -> int:  # type: ignore[override]
        """As of the environment within."""
        return self.environment.step_noise

    @property
    def observation_size(self) -> int:
        return self.environment.observation_size

    @property
    def action_space(self) -> Discrete | Box:
        return self.environment.action_space

    @property
    def return_range(self) -> tuple[float, float]:
        return self.environment.return_range

    def sample(self, generator: Generator, *shape: int) -> World:
        return self.environment.sample(generator, *shape)

    def reset(self, world: World, noise: Float[Tensor, "*batch r"]) -> State:
        return self.environment.reset(world, noise)

    def observe(self, world: World, state: State) -> Float[Tensor, "*batch o"]:
        return self.environment.observe(world, state)

"""A point mass that is steered to a goal around round obstacles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from l2o.agents.environments.base import Box, Environment, State, World, around, check_family

PHYSICS = {"mass": 1.0, "drag": 1.0}
"""Of the arena's units: a full push ends at a speed of 1, half of the arena in a second."""

SECONDS = 0.1
DIAMETER = 2.0 * math.sqrt(2.0)
RADII = (0.1, 0.25)


@dataclass(frozen=True)
class PointMass(Environment):
    """Push a mass in the square [-1, 1]^2 to a goal; each step pays -(distance to it) / (the square's diagonal).

    mass dv/dt = push - drag v, semi-implicit Euler steps. Who runs into an obstacle, or the square's edge, is put back
    on its surface and loses the velocity into it. Seen are the position, the velocity, the way to the goal, and for
    each obstacle the way to its middle and its radius.

    Arguments:
        num_obstacles: circles, of radii from U[0.1, 0.25]; middles from the square, but not over the goal.
        spread: mass and drag are 1 times exp(u), u from U[-spread, spread].
        max_steps: steps in an episode.
    """

    num_obstacles: int = 3
    spread: float = 0.4
    max_steps: int = 100

    reset_noise: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_family(self.max_steps, self.spread)
        if self.num_obstacles < 0:
            raise ValueError(f"num_obstacles must be >= 0; got {self.num_obstacles}.")

    @property
    def observation_size(self) -> int:
        return 6 + 3 * self.num_obstacles

    @property
    def action_space(self) -> Box:
        return Box(2)

    @property
    def return_range(self) -> tuple[float, float]:
        return -float(self.max_steps), 0.0

    def sample(self, generator: Generator, *shape: int) -> World:
        goal = 1.8 * torch.rand(*shape, 2, generator=generator) - 0.9
        middle = 2.0 * torch.rand(*shape, self.num_obstacles, 2, generator=generator) - 1.0
        low, high = RADII
        radius = low + (high - low) * torch.rand(*shape, self.num_obstacles, generator=generator)
        return {
            **around(PHYSICS, self.spread, generator, shape),
            "goal": goal,
            "middle": _outside(middle, goal.unsqueeze(-2), radius.unsqueeze(-1)),  # moved off the goal
            "radius": radius,
        }

    def reset(self, world: World, noise: Float[Tensor, "*batch 2"]) -> State:
        position = self._free(world, 2.0 * noise - 1.0)
        return {"position": position, "velocity": torch.zeros_like(position)}

    def step(
        self, world: World, state: State, action: Float[Tensor, "*batch 2"], noise: Float[Tensor, "*batch 0"]
    ) -> tuple[State, Float[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
        mass, drag = world["mass"].unsqueeze(-1), world["drag"].unsqueeze(-1)
        force = action.clamp(-1.0, 1.0) - drag * state["velocity"]
        velocity = state["velocity"] + SECONDS * force / mass
        wanted = state["position"] + SECONDS * velocity
        position = self._free(world, wanted)
        out = position - wanted  # along the normal of what was run into
        into = (velocity * out).sum(-1, keepdim=True).clamp(max=0.0)
        velocity = velocity - into * out / out.square().sum(-1, keepdim=True).clamp(min=1e-12)
        distance = torch.linalg.vector_norm(world["goal"] - position, dim=-1)
        return {"position": position, "velocity": velocity}, -distance / DIAMETER, torch.zeros_like(distance).bool()

    def observe(self, world: World, state: State) -> Float[Tensor, "*batch o"]:
        position = state["position"]
        to_middle = (world["middle"] - position.unsqueeze(-2)).flatten(-2)
        return torch.cat([position, state["velocity"], world["goal"] - position, to_middle, world["radius"]], dim=-1)

    def _free(self, world: World, position: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        """The position, out of each obstacle in turn and inside the square."""
        for i in range(self.num_obstacles):
            position = _outside(position, world["middle"][..., i, :], world["radius"][..., i : i + 1])
        return position.clamp(-1.0, 1.0)


def _outside(
    point: Float[Tensor, "*batch 2"], middle: Float[Tensor, "*#batch 2"], radius: Float[Tensor, "*batch 1"]
) -> Float[Tensor, "*batch 2"]:
    """Points, those inside of a circle moved to the nearest point on it."""
    way = point - middle
    distance = torch.linalg.vector_norm(way, dim=-1, keepdim=True)
    return torch.where(distance < radius, middle + way * (radius / distance.clamp(min=1e-6)), point)

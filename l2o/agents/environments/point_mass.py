"""A point mass that is steered to a goal around round obstacles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

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
        clear = _outside(_apart(middle), _apart(goal.unsqueeze(-2)), radius)  # moved off the goal
        return {
            **around(PHYSICS, self.spread, generator, shape),
            "goal": goal,
            "middle": torch.stack(clear, dim=-1),
            "radius": radius,
        }

    def reset(self, world: World, noise: Float[Tensor, "*batch 2"]) -> State:
        position = torch.stack(self._free(world, *_apart(2.0 * noise - 1.0)), dim=-1)
        return {"position": position, "velocity": torch.zeros_like(position)}

    def step(
        self, world: World, state: State, action: Float[Tensor, "*batch 2"], noise: Float[Tensor, "*batch 0"]
    ) -> tuple[State, Float[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
        mass, drag = world["mass"], world["drag"]
        (x, y), (u, v) = _apart(state["position"]), _apart(state["velocity"])
        right, up = _apart(action.clamp(-1.0, 1.0))
        u, v = u + SECONDS * (right - drag * u) / mass, v + SECONDS * (up - drag * v) / mass
        wanted = x + SECONDS * u, y + SECONDS * v
        x, y = self._free(world, *wanted)
        out_x, out_y = x - wanted[0], y - wanted[1]  # along the normal of what was run into
        into = (u * out_x + v * out_y).clamp(max=0.0) / (out_x * out_x + out_y * out_y).clamp(min=1e-12)
        velocity = torch.stack([u - into * out_x, v - into * out_y], dim=-1)
        goal_x, goal_y = _apart(world["goal"])
        distance = _length(goal_x - x, goal_y - y)
        after = {"position": torch.stack([x, y], dim=-1), "velocity": velocity}
        return after, -distance / DIAMETER, torch.zeros_like(distance).bool()

    def observe(self, world: World, state: State) -> Float[Tensor, "*batch o"]:
        position = state["position"]
        to_middle = (world["middle"] - position.unsqueeze(-2)).flatten(-2)
        return torch.cat([position, state["velocity"], world["goal"] - position, to_middle, world["radius"]], dim=-1)

    def _free(
        self, world: World, x: Float[Tensor, "*batch"], y: Float[Tensor, "*batch"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """The position, out of each obstacle in turn and inside the square."""
        for i in range(self.num_obstacles):
            x, y = _outside((x, y), _apart(world["middle"][..., i, :]), world["radius"][..., i])
        return x.clamp(-1.0, 1.0), y.clamp(-1.0, 1.0)


Point: TypeAlias = tuple[Tensor, Tensor]
"""Both coordinates apart: on so small an axis operations are slow."""


def _apart(points: Float[Tensor, "*batch 2"]) -> Point:
    return points[..., 0], points[..., 1]


def _outside(point: Point, middle: Point, radius: Float[Tensor, "*batch"]) -> Point:
    """Points, those inside of a circle moved to the nearest point on it."""
    way_x, way_y = point[0] - middle[0], point[1] - middle[1]
    distance = _length(way_x, way_y)
    inside, factor = distance < radius, radius / distance
    x, y = middle[0] + way_x * factor, middle[1] + way_y * factor
    return torch.where(inside, x, point[0]), torch.where(inside, y, point[1])


def _length(x: Float[Tensor, "*batch"], y: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Of a vector; of one without length the gradient is 0."""
    return (x * x + y * y).clamp(min=1e-12).sqrt()

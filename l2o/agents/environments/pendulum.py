"""Pendulum-v1 of Gymnasium, with physics that differ from world to world."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from l2o.agents.environments.base import Box, Environment, State, World, around, check_family

PHYSICS = {"gravity": 10.0, "mass": 1.0, "length": 1.0}
"""Gymnasium's values: m/s^2, kg, m."""

SECONDS = 0.05
MAX_SPEED, MAX_TORQUE = 8.0, 2.0
WORST = math.pi**2 + 0.1 * MAX_SPEED**2 + 0.001 * MAX_TORQUE**2


@dataclass(frozen=True)
class Pendulum(Environment):
    """Swing a pendulum up by a torque too weak to lift it, and hold it there; it never ends.

    Each step pays -(angle^2 + 0.1 speed^2 + 0.001 torque^2), angle 0 upright. Seen are cosine, sine and speed.

    Arguments:
        spread: each physical quantity is Gymnasium's times exp(u), u from U[-spread, spread]; 0 is Pendulum-v1.
        max_steps: steps in an episode; Gymnasium's 200.
    """

    spread: float = 0.4
    max_steps: int = 200

    reset_noise: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_family(self.max_steps, self.spread)

    @property
    def observation_size(self) -> int:
        return 3

    @property
    def action_space(self) -> Box:
        return Box(1, MAX_TORQUE)

    @property
    def return_range(self) -> tuple[float, float]:
        return -WORST * self.max_steps, 0.0

    def sample(self, generator: Generator, *shape: int) -> World:
        return around(PHYSICS, self.spread, generator, shape)

    def reset(self, world: World, noise: Float[Tensor, "*batch 2"]) -> State:
        angle, speed = (2.0 * noise - 1.0).unbind(-1)
        return {"angle": math.pi * angle, "speed": speed}

    def step(
        self, world: World, state: State, action: Float[Tensor, "*batch 1"], noise: Float[Tensor, "*batch 0"]
    ) -> tuple[State, Float[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
        angle, speed = state["angle"], state["speed"]
        gravity, mass, length = world["gravity"], world["mass"], world["length"]
        torque = action.squeeze(-1).clamp(-MAX_TORQUE, MAX_TORQUE)
        upright = torch.remainder(angle + math.pi, 2.0 * math.pi) - math.pi
        cost = upright.square() + 0.1 * speed.square() + 0.001 * torque.square()
        turn = 1.5 * gravity / length * torch.sin(angle) + 3.0 / (mass * length.square()) * torque
        speed = (speed + SECONDS * turn).clamp(-MAX_SPEED, MAX_SPEED)
        return {"angle": angle + SECONDS * speed, "speed": speed}, -cost, torch.zeros_like(cost, dtype=torch.bool)

    def observe(self, world: World, state: State) -> Float[Tensor, "*batch 3"]:
        angle = state["angle"]
        return torch.stack([torch.cos(angle), torch.sin(angle), state["speed"]], dim=-1)

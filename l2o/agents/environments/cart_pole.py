"""CartPole-v1 of Gymnasium (Barto, Sutton and Anderson, 1983), with physics that differ from world to world."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from l2o.agents.environments.base import Discrete, Environment, State, World, around, check_family

PHYSICS = {"gravity": 9.8, "cart_mass": 1.0, "pole_mass": 0.1, "half_length": 0.5, "force": 10.0}
"""Gymnasium's values: m/s^2, kg, kg, m, N."""

SECONDS = 0.02
MAX_POSITION, MAX_ANGLE = 2.4, 12 * 2 * math.pi / 360
FIRST = 0.05


@dataclass(frozen=True)
class CartPole(Environment):
    """Balance a pole on a cart that is pushed left (0) or right (1). Each step pays 1; it ends where the pole falls.

    The state is (position, velocity, angle, angular velocity), all of it seen, integrated by explicit Euler steps.

    Arguments:
        spread: each physical quantity is Gymnasium's times exp(u), u from U[-spread, spread]; 0 is CartPole-v1.
        max_steps: steps in an episode; Gymnasium's 500.
    """

    spread: float = 0.4
    max_steps: int = 500

    reset_noise: ClassVar[int] = 4

    def __post_init__(self) -> None:
        check_family(self.max_steps, self.spread)

    @property
    def observation_size(self) -> int:
        return 4

    @property
    def action_space(self) -> Discrete:
        return Discrete(2)

    @property
    def return_range(self) -> tuple[float, float]:
        return 0.0, float(self.max_steps)

    def sample(self, generator: Generator, *shape: int) -> World:
        return around(PHYSICS, self.spread, generator, shape)

    def reset(self, world: World, noise: Float[Tensor, "*batch 4"]) -> State:
        return {"motion": FIRST * (2.0 * noise - 1.0)}

    def step(
        self, world: World, state: State, action: Int[Tensor, "*batch"], noise: Float[Tensor, "*batch 0"]
    ) -> tuple[State, Float[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
        motion = state["motion"]
        _, velocity, angle, spin = motion.unbind(-1)
        mass = world["cart_mass"] + world["pole_mass"]
        share = world["pole_mass"] / mass
        lever = share * world["half_length"]
        sin, cos = torch.sin(angle), torch.cos(angle)
        push = torch.where(action == 1, world["force"], -world["force"]) / mass + lever * spin.square() * sin
        turn = (world["gravity"] * sin - cos * push) / (world["half_length"] * (4.0 / 3.0 - share * cos.square()))
        change = torch.stack([velocity, push - lever * turn * cos, spin, turn], dim=-1)
        motion = motion + SECONDS * change
        fell = (motion[..., 0].abs() > MAX_POSITION) | (motion[..., 2].abs() > MAX_ANGLE)
        return {"motion": motion}, torch.ones_like(sin), fell

    def observe(self, world: World, state: State) -> Float[Tensor, "*batch 4"]:
        return state["motion"]

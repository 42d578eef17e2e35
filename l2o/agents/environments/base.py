"""What an environment is: a family of worlds, acted in through pure functions of batched tensors."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Generator, Tensor

World: TypeAlias = dict[str, Tensor]
"""What differs between members of a family (physics, layout, arms): the context of a contextual Markov decision process
(Hallak et al., 2015, https://arxiv.org/abs/1502.02259)."""

State: TypeAlias = dict[str, Tensor]
"""What changes from step to step."""


@dataclass(frozen=True)
class Discrete:
    """Actions 0 to `num` - 1, int64 tensors of shape `*batch`."""

    num: int

    @property
    def num_noise(self) -> int:
        """Uniform numbers that drawing an action takes."""
        return 1


@dataclass(frozen=True)
class Box:
    """Actions of `size` numbers between -limit and limit, shape `*batch size`; what is beyond counts as the limit."""

    size: int
    limit: float = 1.0

    @property
    def num_noise(self) -> int:
        """Uniform numbers that drawing an action takes."""
        return self.size


class Environment(ABC):
    """A family of worlds of one structure; a frozen dataclass, and every method a pure function.

    Worlds and states are dicts of tensors with leading axes `*batch`, the same in all arguments of a method (see
    `spread_over`); under `torch.func.vmap` one axis more. Nothing is drawn inside: `reset` and `step` are given uniform
    numbers in [0, 1) (see `draw`), so that equal noise gives equal episodes.

    Attributes:
        reset_noise, step_noise: how many uniform numbers a reset and a step take.
        is_pure: whether a state can be kept and gone on from; a simulator has one present only.
    """

    reset_noise: ClassVar[int]
    step_noise: ClassVar[int] = 0
    is_pure: ClassVar[bool] = True
    max_steps: int

    @property
    @abstractmethod
    def observation_size(self) -> int:
        """Numbers in an observation."""

    @property
    @abstractmethod
    def action_space(self) -> Discrete | Box:
        """What can be done."""

    @property
    @abstractmethod
    def return_range(self) -> tuple[float, float]:
        """Least and largest sum of rewards of an episode of `max_steps` steps; infinite where it is not known."""

    def share(self, returns: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Returns as shares of what is possible, in [0, 1]."""
        low, high = self.return_range
        return ((returns - low) / (high - low)).clamp(0.0, 1.0)

    @abstractmethod
    def sample(self, generator: Generator, *shape: int) -> World:
        """Worlds of the family, as many as `shape` says."""

    @abstractmethod
    def reset(self, world: World, noise: Float[Tensor, "*batch r"]) -> State:
        """The state that an episode begins in."""

    @abstractmethod
    def step(
        self, world: World, state: State, action: Shaped[Tensor, "..."], noise: Float[Tensor, "*batch s"]
    ) -> tuple[State, Float[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
        """The next state, the reward, and whether the episode ended there, which at a time limit it does not."""

    @abstractmethod
    def observe(self, world: World, state: State) -> Float[Tensor, "*batch o"]:
        """What an agent sees of a state."""

    def restart(
        self, world: World, state: State, ended: Bool[Tensor, "*batch"], noise: Float[Tensor, "*batch r"]
    ) -> State:
        """The state, with those episodes that ended begun anew."""
        fresh = self.reset(world, noise)
        return {name: torch.where(over(ended, old), fresh[name], old) for name, old in state.items()}


def spread_over(world: World, num: int, dim: int = 0) -> World:
    """The same worlds for `num` episodes each, along a new axis; no memory is copied."""
    return {
        name: x.unsqueeze(dim).expand(*x.shape[:dim], num, *x.shape[dim:]) for name, x in world.items()
    }  # expand alone would put the new axis first


def over(mask: Bool[Tensor, "*batch"], like: Shaped[Tensor, "..."]) -> Bool[Tensor, "..."]:
    """A mask of batch elements, shaped to broadcast over `like`."""
    return mask.view(*mask.shape, *[1] * (like.ndim - mask.ndim))


def around(nominal: dict[str, float], spread: float, generator: Generator, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Positive quantities, each its nominal value times exp(u), u uniform in [-spread, spread]."""
    factors = torch.exp(spread * (2.0 * torch.rand(len(nominal), *shape, generator=generator) - 1.0))
    return {name: value * factor for (name, value), factor in zip(nominal.items(), factors, strict=True)}


def check_family(max_steps: int, spread: float = 0.0) -> None:
    """Raise a ValueError unless an episode has a step and worlds a finite spread."""
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, for an episode has a step; got {max_steps}.")
    if not (math.isfinite(spread) and spread >= 0.0):
        raise ValueError(f"spread must be finite and >= 0, the range of a logarithm; got {spread}.")

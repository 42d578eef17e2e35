"""Multi-armed bandits, arms drawn from U[0, 1] (Duan et al., 2016, https://arxiv.org/abs/1611.02779, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from l2o.agents.environments.base import Discrete, Environment, State, World, check_family


@dataclass(frozen=True)
class Bandit(Environment):
    """Arm k pays 1 with probability `mean[k]`, else 0. There is nothing to see: the observation is 1.

    An episode ends with its last pull; what would come after it is worth nothing.

    Arguments:
        num_arms: arms, at least 2.
        max_steps: pulls in an episode.
    """

    num_arms: int = 5
    max_steps: int = 10

    reset_noise: ClassVar[int] = 0
    step_noise: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_family(self.max_steps)
        if self.num_arms < 2:
            raise ValueError(f"num_arms must be at least 2, or there is no choice; got {self.num_arms}.")

    @property
    def observation_size(self) -> int:
        return 1

    @property
    def action_space(self) -> Discrete:
        return Discrete(self.num_arms)

    @property
    def return_range(self) -> tuple[float, float]:
        return 0.0, float(self.max_steps)

    def sample(self, generator: Generator, *shape: int) -> World:
        return {"mean": torch.rand(*shape, self.num_arms, generator=generator)}

    def reset(self, world: World, noise: Float[Tensor, "*batch 0"]) -> State:
        return {"pulls": torch.zeros_like(world["mean"][..., 0])}

    def step(
        self, world: World, state: State, action: Int[Tensor, "*batch"], noise: Float[Tensor, "*batch 1"]
    ) -> tuple[State, Float[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
        mean = world["mean"].gather(-1, action.unsqueeze(-1)).squeeze(-1)
        paid, pulls = noise.squeeze(-1) < mean, state["pulls"] + 1.0
        return {"pulls": pulls}, paid.to(mean.dtype), pulls >= self.max_steps

    def observe(self, world: World, state: State) -> Float[Tensor, "*batch 1"]:
        return torch.ones_like(state["pulls"]).unsqueeze(-1)

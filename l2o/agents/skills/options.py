"""Skills as actions: options that run for several steps (Sutton, Precup and Singh, 1999)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.func import vmap

from l2o.agents.environments.base import Discrete, Environment, State, World, over
from l2o.agents.environments.wrapped import Wrapped
from l2o.agents.policy import Policy
from l2o.types import Params, tree_stack


@dataclass(frozen=True, eq=False)
class Options(Wrapped):
    """An environment whose actions are skills: the chosen one acts until its own world ends, or for `length` steps.

    Skill i acts as if the world were `world | aims[i]`, for example with its goal in the place of the task's, and ends
    where that world's episode does. Rewards and ends are those of the true world; rewards of the steps are summed.

    Arguments:
        environment: acted in; pure.
        policy: the skills' structure.
        weights: theirs, with a leading axis of skills.
        aims: what each puts in the world's place, with a leading axis of skills.
        length: steps that one runs at most.
        max_steps: choices in an episode.
    """

    policy: Policy
    weights: Params
    aims: World
    length: int = 8
    max_steps: int = 16

    def __post_init__(self) -> None:
        sizes = {len(x) for x in (*self.weights.values(), *self.aims.values())}
        if len(sizes) != 1 or not self.environment.is_pure or self.length < 1 or self.max_steps < 1:
            raise ValueError(
                "options need as many weights as aims, a pure environment, and a step at least; got "
                f"{sorted(sizes)} of them, length={self.length}, max_steps={self.max_steps}, {self.environment!r}."
            )

    @classmethod
    def of(
        cls,
        environment: Environment,
        policy: Policy,
        skills: Sequence[Params],
        aims: World,
        length: int = 8,
        max_steps: int = 16,
    ) -> Options:
        """From the weights of several skills, as they come out of a library."""
        return cls(environment, policy, tree_stack(list(skills)), aims, length, max_steps)

    @property
    def num_skills(self) -> int:
        """Options to choose from."""
        return len(next(iter(self.weights.values())))

    @property
    def step_noise(self) -> int:  # type: ignore[override]
        """For all the steps of an option, and their actions."""
        return self.length * (self.environment.step_noise + self.environment.action_space.num_noise)

    @property
    def action_space(self) -> Discrete:
        return Discrete(self.num_skills)

    def step(
        self, world: World, state: State, action: Int[Tensor, "*batch"], noise: Float[Tensor, "*batch s"]
    ) -> tuple[State, Float[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
        aimed = world | {name: x[action].to(world[name].dtype) for name, x in self.aims.items()}
        total = torch.zeros_like(noise[..., 0])
        ended = torch.zeros_like(action, dtype=torch.bool)
        over_now = ended
        for uniform in noise.unflatten(-1, (self.length, -1)).unbind(-2):
            chances, act_noise = uniform.split(
                (self.environment.step_noise, self.environment.action_space.num_noise), -1
            )
            move = self._act(self.environment.observe(aimed, state), act_noise, action)
            after, reward, terminated = self.environment.step(world, state, move, chances)
            _, _, reached = self.environment.step(aimed, state, move, chances)
            state = {name: torch.where(over(over_now, old), old, after[name]) for name, old in state.items()}
            total = total + torch.where(over_now, 0.0, reward)
            ended = ended | (terminated & ~over_now)
            over_now = over_now | terminated | reached
        return state, total, ended

    def _act(self, seen: Float[Tensor, "*batch o"], noise: Float[Tensor, "*batch a"], option: Tensor) -> Tensor:
        """What each element's option does: all options are asked, and one answer is taken."""
        actions, _ = vmap(self.policy.act, in_dims=(0, None, None))(self.weights, seen, noise)
        index = option.view(1, *option.shape, *[1] * (actions.ndim - 1 - option.ndim))
        return actions.gather(0, index.expand(1, *actions.shape[1:])).squeeze(0)

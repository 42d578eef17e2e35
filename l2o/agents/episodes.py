"""Acting: episodes that follow one another in every place of a batch, with time limits and restarts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Generator, Tensor

from l2o.agents.environments.base import Environment, State, World
from l2o.types import tree_stack

Act: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(observations `*batch o`, uniform numbers `*batch a`) -> (actions, their log-probabilities `*batch`)."""


class Running(NamedTuple):
    """Episodes under way: their states, steps made in each, and the rewards of each so far."""

    state: State
    age: Int[Tensor, "*batch"]
    total: Float[Tensor, "*batch"]


class Rollout(NamedTuple):
    """Steps of a batch of environments, time first.

    terminated: the episode ended there. done: it ended, or reached its time limit; another one begins.
    next_observation: what was seen after the step, before another episode began.
    total: the episode's sum of rewards, this step's among them: its return where `done`.
    """

    observation: Float[Tensor, "steps *batch o"]
    action: Shaped[Tensor, "..."]
    log_prob: Float[Tensor, "steps *batch"]
    reward: Float[Tensor, "steps *batch"]
    terminated: Bool[Tensor, "steps *batch"]
    done: Bool[Tensor, "steps *batch"]
    next_observation: Float[Tensor, "steps *batch o"]
    total: Float[Tensor, "steps *batch"]


class Noise(NamedTuple):
    """Uniform numbers in [0, 1): of resets, steps and actions; for several steps, time first."""

    reset: Float[Tensor, "*steps_and_batch r"]
    step: Float[Tensor, "*steps_and_batch s"]
    action: Float[Tensor, "*steps_and_batch a"]


def draw(environment: Environment, generator: Generator, *shape: int) -> Noise:
    """The noise of steps in an environment, shape `(steps, *batch)`."""
    sizes = (environment.reset_noise, environment.step_noise, environment.action_space.num_noise)
    numbers = torch.rand(*shape, sum(sizes), generator=generator)
    return Noise(*numbers.split(sizes, dim=-1))


def begin(environment: Environment, world: World, noise: Float[Tensor, "*batch r"]) -> Running:
    """An episode in every place, at its first state."""
    batch = noise.shape[:-1]
    return Running(
        environment.reset(world, noise),
        torch.zeros(batch, dtype=torch.int64, device=noise.device),
        torch.zeros(batch, dtype=noise.dtype, device=noise.device),
    )


def rollout(
    environment: Environment, world: World, act: Act, running: Running, noise: Noise
) -> tuple[Rollout, Running]:
    """Act for as many steps as there is noise for; an episode that is over is followed by another one.

    Arguments:
        world: one for each place of the batch (see `spread_over`).
    """
    steps = []
    for i in range(noise.action.shape[0]):
        step, running = _step(environment, world, act, running, Noise(*(part[i] for part in noise)))
        steps.append(step)
    return tree_stack(steps), running


def play(environment: Environment, world: World, act: Act, noise: Noise) -> Rollout:
    """Episodes from their first step on; the first of the noise begins them, there is a step for each of the rest.

    Arguments:
        world: see `rollout`.
    """
    running = begin(environment, world, noise.reset[0])
    return rollout(environment, world, act, running, Noise(*(part[1:] for part in noise)))[0]


def first_returns(steps: Rollout) -> Float[Tensor, "*batch"]:
    """The return of the first episode of each place, of which all steps must be there."""
    before = steps.done.long().cumsum(dim=0) - steps.done.long()  # episodes that had ended when the step was made
    return torch.where(before == 0, steps.reward, 0.0).sum(dim=0)


def _step(environment: Environment, world: World, act: Act, running: Running, noise: Noise) -> tuple[Rollout, Running]:
    seen = environment.observe(world, running.state)
    action, log_prob = act(seen, noise.action)
    state, reward, terminated = environment.step(world, running.state, action, noise.step)
    age, total = running.age + 1, running.total + reward
    done = terminated | (age >= environment.max_steps)
    step = Rollout(seen, action, log_prob, reward, terminated, done, environment.observe(world, state), total)
    state = environment.restart(world, state, done, noise.reset)
    return step, Running(state, torch.where(done, 0, age), torch.where(done, 0.0, total))

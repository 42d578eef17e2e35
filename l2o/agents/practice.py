"""An agent at practice: one policy for each skill, in a world of its own, learning as the agent's parts say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.agents.environments.base import World, spread_over
from l2o.agents.episodes import Running, begin, draw, first_returns, play
from l2o.agents.kind import Kind
from l2o.agents.lifetime import Lifetimes, Lives
from l2o.agents.losses import Hyperparameters
from l2o.agents.policy import ActorCritic
from l2o.inner_loop import InnerState
from l2o.rules.base import OptState
from l2o.training.checkpoint import register_state
from l2o.types import Params, draw_seed, seeded, tree_map

for _state in (Lives, Running):
    register_state(_state)

POLICY = "policy/"
"""Parts of this prefix are the policies, by skill."""


@dataclass(frozen=True)
class Exercise:
    """Something to be good at: a world, and how one lives in it.

    Arguments:
        name: of the skill.
        kind: environment, policy and algorithm.
        seed: of the world, and of the first policy.
    """

    name: str
    kind: Kind
    seed: int

    @property
    def part(self) -> str:
        """The agent's part that is its policy."""
        return POLICY + self.name

    @property
    def policy(self) -> ActorCritic:
        """What is trained."""
        return self.kind.policy

    def world(self, num: int) -> World:
        """The world, for a batch of `num`."""
        return spread_over(self.kind.environment.sample(seeded(self.seed)), num)

    def first(self) -> dict[str, Any]:
        """The policy before any practice; see `practise`."""
        return begun(self.policy.init(seeded(self.seed + 1)))

    @torch.no_grad()
    def scores(self, params: Params, generator: Generator, num: int) -> Float[Tensor, " num"]:
        """Shares of the possible return, in [0, 1], of `num` episodes; equal generators give equal chances."""
        environment, policy = self.kind.environment, self.policy
        noise = draw(environment, generator, environment.max_steps + 1, num)
        steps = play(environment, self.world(num), lambda seen, u: policy.act(params, seen, u), noise)
        return environment.share(first_returns(steps))


def exercises_of(kinds: dict[str, Kind], seed: int) -> tuple[Exercise, ...]:
    """An exercise of each kind."""
    return tuple(Exercise(name, kind, seed + 101 * i) for i, (name, kind) in enumerate(kinds.items()))


def begun(params: Params, source: int = 0) -> dict[str, Any]:
    """A policy part that begins with these weights.

    Arguments:
        source: the trial whose version they are; 0: they are fresh.
    """
    return {"params": params, "opt": None, "rule": -1, "source": source}


def able(value: dict[str, Any]) -> bool:
    """Whether a policy part has been practised, or begins with a skill."""
    return value["opt"] is not None or value["source"] > 0


@torch.no_grad()
def practise(
    exercise: Exercise,
    lifetimes: Lifetimes,
    hyperparameters: Hyperparameters,
    value: dict[str, Any],
    version: int,
    num_iterations: int,
    total_iterations: int,
    generator: Generator,
) -> tuple[dict[str, Any], float]:
    """Go on with a skill's policy; returns its part after it, and the mean share of the possible return meanwhile.

    A policy part is {params, opt, rule, source}: weights, the rule's state, the version of the rule that the state is
    of, and the trial that the weights were first taken from. A rule of another version begins with a fresh state.

    Arguments:
        lifetimes: how the agent lives in the exercise's environment.
        value: the policy part to go on from.
        version: of the rule.
        num_iterations: of PPO.
        total_iterations: what a rule that follows a schedule is told of the length of the whole.
    """
    lives = _lives(exercise, lifetimes, value, version, total_iterations, generator)
    returns = []
    for _ in range(num_iterations):
        lives, report = lifetimes.advance(dict(lifetimes.rule.named_parameters()), lives, hyperparameters, generator)
        returns.append(report.episode_return)
    share = float(lifetimes.environment.share(torch.stack(returns).mean()))
    after = tree_map(lambda x: x[0].clone(), lives.learner)
    return {"params": after.params, "opt": after.opt, "rule": version, "source": value["source"]}, share


def _lives(
    exercise: Exercise,
    lifetimes: Lifetimes,
    value: dict[str, Any],
    version: int,
    total_iterations: int,
    generator: Generator,
) -> Lives:
    """One lane, in the exercise's world, with the part's weights."""
    fresh = lifetimes.start(1, total_iterations, seeded(draw_seed(generator)))
    world = exercise.world(1)
    opt = fresh.learner.opt
    if value["opt"] is not None and value["rule"] == version:
        opt = tree_map(lambda x: x.unsqueeze(0), OptState(*value["opt"]))
    learner = InnerState({name: p.unsqueeze(0) for name, p in value["params"].items()}, opt)
    environment, num_envs = lifetimes.environment, lifetimes.algorithm.num_envs
    noise = torch.rand(1, num_envs, environment.reset_noise, generator=generator)
    return Lives(world, begin(environment, spread_over(world, num_envs, dim=1), noise), learner)

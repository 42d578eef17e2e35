"""An agent at practice: one policy for each skill, in a world of its own, learning as the agent's parts say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.agents.environments.base import World, spread_over
from l2o.agents.episodes import Noise, Running, begin, draw, rollout
from l2o.agents.lifetime import Lifetimes, Lives
from l2o.agents.lifetime_es import Kind
from l2o.agents.losses import Hyperparameters
from l2o.agents.policy import ActorCritic
from l2o.agents.spec import AgentSpec, unpacked
from l2o.inner_loop import InnerState
from l2o.rules.base import OptState
from l2o.training.checkpoint import register_state
from l2o.types import Params, draw_seed, seeded, tree_map

for _state in (Lives, Running):
    register_state(_state)

POLICY = "policy/"
"""Parts of this prefix are the policies, by skill."""


@dataclass(frozen=True)
class Skill:
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
        return ActorCritic.of(self.kind.environment, self.kind.hidden)

    def world(self, num: int) -> World:
        """The world, for a batch of `num`."""
        return spread_over(self.kind.environment.sample(seeded(self.seed)), num)

    def first(self) -> dict[str, Any]:
        """The policy before any practice; see `Practice`."""
        params = self.policy.init(seeded(self.seed + 1))
        return {"params": params, "opt": None, "rule": -1}

    @torch.no_grad()
    def scores(self, params: Params, generator: Generator, num: int) -> Float[Tensor, " num"]:
        """Shares of the possible return, in [0, 1], of `num` episodes; equal generators give equal chances."""
        environment, policy, world = self.kind.environment, self.policy, self.world(num)
        noise = draw(environment, generator, environment.max_steps + 1, num)
        running = begin(environment, world, noise.reset[0])
        later = Noise(*(part[1:] for part in noise))
        steps, _ = rollout(environment, world, lambda seen, u: policy.act(params, seen, u), running, later)
        before = steps.done.cumsum(dim=0) - steps.done.long()  # episodes that had ended when the step was made
        returns = torch.where(before == 0, steps.reward, 0.0).sum(dim=0)
        low, high = environment.return_range
        return ((returns - low) / (high - low)).clamp(0.0, 1.0)


def skills_of(kinds: dict[str, Kind], seed: int) -> tuple[Skill, ...]:
    """A skill of each kind."""
    return tuple(Skill(name, kind, seed + 101 * i) for i, (name, kind) in enumerate(kinds.items()))


def tuned(base: Hyperparameters, factors: dict[str, float]) -> Hyperparameters:
    """Hyperparameters, each times its factor."""
    return base._replace(**{name: factor * getattr(base, name) for name, factor in factors.items()})


class Practice:
    """Goes on with a skill's policy: acts, and learns with the agent's optimizer and hyperparameters.

    A policy part is {params, opt, rule}: weights, the rule's state, and the version of the rule that the state is of. A
    version of another number begins with a fresh state.

    Arguments:
        skill: what is practised.
        num_iterations: of PPO in a practice.
        total_iterations: what a rule that follows a schedule is told of the length of the whole.
    """

    def __init__(self, skill: Skill, num_iterations: int, total_iterations: int) -> None:
        self.skill, self.num_iterations, self.total_iterations = skill, num_iterations, total_iterations

    @torch.no_grad()
    def __call__(self, spec: AgentSpec, value: dict[str, Any], generator: Generator) -> tuple[dict[str, Any], float]:
        """Practise once; returns the policy part after it, and the mean share of the possible return meanwhile.

        Arguments:
            value: the policy part to go on from.
        """
        kind, rule, version = self.skill.kind, unpacked(spec["optimizer"]), spec.versions["optimizer"]
        lifetimes = Lifetimes(kind.environment, self.skill.policy, rule, kind.algorithm)
        lives = self._lives(lifetimes, value, version, generator)
        hyper = tuned(kind.hyperparameters, spec["hyperparameters"])
        returns = []
        for _ in range(self.num_iterations):
            lives, report = lifetimes.advance(dict(rule.named_parameters()), lives, hyper, generator)
            returns.append(report.episode_return)
        low, high = kind.environment.return_range
        share = (float(torch.stack(returns).mean()) - low) / (high - low)
        after = tree_map(lambda x: x[0].clone(), lives.learner)
        return {"params": after.params, "opt": after.opt, "rule": version}, share

    def _lives(self, lifetimes: Lifetimes, value: dict[str, Any], version: int, generator: Generator) -> Lives:
        """One lane, in the skill's world, with the part's weights."""
        fresh = lifetimes.start(1, self.total_iterations, seeded(draw_seed(generator)))
        world = {
            name: x.unsqueeze(0) for name, x in self.skill.kind.environment.sample(seeded(self.skill.seed)).items()
        }
        opt = fresh.learner.opt
        if value["opt"] is not None and value["rule"] == version:
            opt = tree_map(lambda x: x.unsqueeze(0), OptState(*value["opt"]))
        learner = InnerState({name: p.unsqueeze(0) for name, p in value["params"].items()}, opt)
        environment = self.skill.kind.environment
        noise = torch.rand(1, lifetimes.algorithm.num_envs, environment.reset_noise, generator=generator)
        running = begin(environment, spread_over(world, lifetimes.algorithm.num_envs, dim=1), noise)
        return Lives(world, running, learner)


def lives_scores(spec: AgentSpec, kinds: Sequence[Kind], generator: Generator, num: int) -> Float[Tensor, " num"]:
    """Shares of the possible return, over whole lives with an agent's optimizer and hyperparameters, of all kinds."""
    rule = unpacked(spec["optimizer"])
    sizes = [len(range(i, num, len(kinds))) for i in range(len(kinds))]
    found = [
        kind.scores(rule, generator, size, hyperparameters=tuned(kind.hyperparameters, spec["hyperparameters"]))
        for kind, size in zip(kinds, sizes, strict=True)
        if size
    ]
    return torch.cat(found)

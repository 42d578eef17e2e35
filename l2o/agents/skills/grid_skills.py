"""Agents that learn the skills of grid worlds with keys and doors, by PPO: practice as it really is."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor
from torch.func import vmap

from l2o.agents.environments import GridWorld, World, spread_over
from l2o.agents.episodes import begin, draw, first_returns, play
from l2o.agents.lifetime import Lifetimes, Lives
from l2o.agents.losses import Hyperparameters
from l2o.agents.policy import Policy
from l2o.agents.ppo import PPO
from l2o.agents.skills.curriculum import Curriculum, Learners
from l2o.agents.skills.record import Practice
from l2o.rules.base import UpdateRule


@dataclass(frozen=True)
class GridSkills(Curriculum):
    """In each lane an agent in a layout of its own; it practises a skill for one iteration of PPO.

    One policy, told its target, has all the skills; what it learns of one may help or hurt the others.

    Arguments:
        environment: the family of layouts; its skills are the curriculum's.
        policy: what is trained.
        rule: how its parameters move.
        algorithm: an iteration; its steps are the cost of a practice.
        hyperparameters: of the agents.
        budget: environment steps of a lifetime.
        num_trials: episodes for each skill when competence is measured.
    """

    environment: GridWorld
    policy: Policy
    rule: UpdateRule
    algorithm: PPO = field(default_factory=PPO)
    hyperparameters: Hyperparameters = Hyperparameters()  # noqa: RUF009 (immutable)
    budget: float = 50_000.0
    num_trials: int = 8

    def __post_init__(self) -> None:
        if not self.budget >= self.algorithm.num_samples or self.num_trials < 1:
            raise ValueError(
                f"the budget must allow a practice, {self.algorithm.num_samples} steps, and num_trials be at least 1; "
                f"got budget={self.budget}, num_trials={self.num_trials}."
            )

    @property
    def num_skills(self) -> int:
        return self.environment.num_skills

    @property
    def max_practices(self) -> int:  # type: ignore[override]
        """As many as the budget allows."""
        return int(self.budget // self.algorithm.num_samples)

    def start(self, num: int, generator: Generator) -> Learners:
        return self._agents.start(num, self.max_practices, generator)

    def practise(
        self, learners: Learners, skill: Int[Tensor, " lanes"], generator: Generator
    ) -> tuple[Learners, Practice]:
        world = {**learners.world, "target": skill}
        first = torch.rand(len(skill), self.algorithm.num_envs, self.environment.reset_noise, generator=generator)
        running = begin(self.environment, spread_over(world, self.algorithm.num_envs, dim=1), first)
        theta = {name: p.detach() for name, p in self.rule.named_parameters()}
        lives = Lives(world, running, learners.learner)
        lives, report = self._agents.advance(theta, lives, self.hyperparameters, generator)
        successes = report.episodes * report.episode_return  # each pays 1
        cost = torch.full_like(successes, float(self.algorithm.num_samples))
        return lives, Practice(report.episodes, successes, cost)

    @torch.no_grad()
    def competence(self, learners: Learners, generator: Generator) -> Float[Tensor, "lanes skills"]:
        lanes, skills, trials = len(learners.world["target"]), self.num_skills, self.num_trials
        world = spread_over(spread_over(learners.world, skills, dim=1), trials, dim=2)
        world |= {"target": torch.arange(skills).view(1, skills, 1).expand(lanes, skills, trials)}
        noise = draw(self.environment, generator, self.environment.max_steps + 1, lanes, skills, trials)
        params, act = learners.learner.params, vmap(self.policy.act)
        steps = play(self.environment, world, lambda seen, u: act(params, seen, u), noise)
        return first_returns(steps).mean(dim=-1)

    def learnable(self, learners: Learners) -> Bool[Tensor, "lanes skills"]:
        return torch.ones(len(learners.world["target"]), self.num_skills, dtype=torch.bool)

    @property
    def _agents(self) -> Lifetimes:
        return Lifetimes(self.environment, self.policy, self.rule, self.algorithm)


def aims(environment: GridWorld) -> World:
    """What each skill of a grid world has for its target, for `Options`."""
    return {"target": torch.arange(environment.num_skills)}

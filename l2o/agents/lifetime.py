"""Whole training lifetimes, hundreds in one batch: each lane has a world and a policy, trained by a rule with PPO."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.func import vmap

from l2o.agents.environments.base import Environment, World, spread_over
from l2o.agents.episodes import Noise, Rollout, Running, begin, draw, first_returns, play, rollout
from l2o.agents.losses import Hyperparameters, Losses
from l2o.agents.policy import Policy
from l2o.agents.ppo import PPO, lane_update, prepare
from l2o.inner_loop import InnerState, repeat_lanes, theta_axis
from l2o.rules.base import UpdateRule
from l2o.types import Params, Theta, tree_map, tree_stack


class Lives(NamedTuple):
    """Lifetimes under way, one a lane: worlds, episodes, and the policies with the rule's state."""

    world: World
    running: Running
    learner: InnerState


class Report(NamedTuple):
    """What an iteration gave, by lane.

    reward: mean over steps.
    episode_return: rewards over the number of episodes that ended, where that is no less than the time limit allows.
    losses: of the last update.
    episodes: how many ended, no fewer than the time limit allows.
    """

    reward: Float[Tensor, "*iterations lanes"]
    episode_return: Float[Tensor, "*iterations lanes"]
    losses: Losses
    episodes: Float[Tensor, "*iterations lanes"]


@dataclass(frozen=True)
class Lifetimes:
    """Agents of one kind, trained side by side.

    Arguments:
        environment: the family whose worlds they live in.
        policy: what is trained.
        rule: how its parameters move.
        algorithm: how much is done between updates.
        first: weights that all lives begin with; None: each with fresh ones.
    """

    environment: Environment
    policy: Policy
    rule: UpdateRule
    algorithm: PPO = field(default_factory=PPO)
    first: Params | None = None

    def start(self, num: int, num_iterations: int, generator: Generator, copies: int = 1) -> Lives:
        """Policies at their beginning, in fresh worlds.

        Arguments:
            num: lifetimes in all.
            num_iterations: how many will come, from which rules that follow a schedule get the length of the run.
            copies: so many times the same worlds, policies and chances, one block after the other; what differs is then
                theta or hyperparameters alone. Hand `advance` the same.
        """
        if num < 1 or copies < 1 or num % copies:
            raise ValueError(f"num must be a positive multiple of copies; got num={num}, copies={copies}.")
        unique = num // copies
        world = self.environment.sample(generator, unique)
        params = tree_stack([self.policy.init(generator) for _ in range(unique)])
        if self.first is not None:
            params = {name: p.expand(unique, *p.shape) for name, p in self.first.items()}
        first = torch.rand(unique, self.algorithm.num_envs, self.environment.reset_noise, generator=generator)
        world, params, first = repeat_lanes((world, params, first), copies)
        total = torch.full((num,), float(num_iterations * self.algorithm.num_updates)).double()
        with torch.no_grad():
            opt = tree_map(lambda x: x.contiguous(), vmap(self.rule.init)(params, total))
        running = begin(self.environment, self._spread(world), first)
        return Lives(world, running, InnerState(params, opt))

    @torch.no_grad()
    def run(
        self,
        hyperparameters: Hyperparameters,
        num: int,
        num_iterations: int,
        generator: Generator,
        theta: Theta | None = None,
        copies: int = 1,
    ) -> Curves:
        """Whole lives, from first to last iteration.

        Arguments:
            hyperparameters: see `advance`.
            theta: the rule's own if None; with a leading axis of lanes, each life has a rule of its own.
            copies: see `start`.
        """
        if num_iterations < 1:
            raise ValueError(f"num_iterations must be at least 1; got {num_iterations}.")
        theta = dict(self.rule.named_parameters()) if theta is None else theta
        lives, reports = self.start(num, num_iterations, generator, copies), []
        for _ in range(num_iterations):
            lives, report = self.advance(theta, lives, hyperparameters, generator, copies)
            reports.append(report)
        return Curves(tree_stack(reports), lives)

    def advance(
        self, theta: Theta, lives: Lives, hyperparameters: Hyperparameters, generator: Generator, copies: int = 1
    ) -> tuple[Lives, Report]:
        """One iteration of every life: act, then learn. Differentiable in theta and hyperparameters, not in acting.

        Arguments:
            theta: the rule's parameters, shared by all lanes or with a leading axis of lanes.
            hyperparameters: numbers, or tensors of one number, or of one a lane.
        """
        experience, running = self.act(lives, generator, copies)
        learner, losses = self.learn(theta, lives.learner, experience, hyperparameters, generator, copies)
        return Lives(lives.world, running, learner), self.report(experience, losses)

    def learn(
        self,
        theta: Theta,
        learner: InnerState,
        experience: Rollout,
        hyperparameters: Hyperparameters,
        generator: Generator,
        copies: int = 1,
    ) -> tuple[InnerState, Losses]:
        """The updates of an iteration, from its steps; also the losses of the last one."""
        num = experience.reward.shape[1]
        axis = theta_axis(self.rule, theta, num)
        hyper = hyperparameters.by_lane(num)
        with_advantages = vmap(prepare, in_dims=(None, 0, 1, 0))
        samples = with_advantages(self.policy, learner.params, experience, hyper)
        update = lane_update(self.rule, self.policy, self.algorithm.normalise, axis)
        for index in self._order(num, generator, copies):
            batch = samples if index is None else tree_map(lambda x, index=index: _taken(x, index), samples)
            learner, losses = update(theta, learner, batch, hyper)
        return learner, losses

    def act(self, lives: Lives, generator: Generator, copies: int = 1) -> tuple[Rollout, Running]:
        """Steps of all environments of all lanes; (steps, lanes, envs)."""
        num, algorithm = lives.running.age.shape[0], self.algorithm
        noise = draw(self.environment, generator, algorithm.num_steps, num // copies, algorithm.num_envs)
        noise = Noise(*(x.repeat(1, copies, 1, 1) if copies > 1 else x for x in noise))
        params = {name: p.detach() for name, p in lives.learner.params.items()}
        act = vmap(self.policy.act)
        with torch.no_grad():
            return rollout(
                self.environment,
                self._spread(lives.world),
                lambda seen, uniform: act(params, seen, uniform),
                lives.running,
                noise,
            )

    @torch.no_grad()
    def whole_returns(
        self, lives: Lives, num_episodes: int, generator: Generator, copies: int = 1
    ) -> Float[Tensor, " lanes"]:
        """Mean return of fresh episodes, each from its first to its last step, by the policies as they are.

        Lives that are shorter than an episode do not show it: what `Report` tells is too high there.

        Arguments:
            copies: see `start`.
        """
        environment, num = self.environment, lives.running.age.shape[0]
        noise = draw(environment, generator, environment.max_steps + 1, num // copies, num_episodes)
        noise = Noise(*(x.repeat(1, copies, 1, 1) for x in noise))
        act, world = vmap(self.policy.act), spread_over(lives.world, num_episodes, dim=1)
        steps = play(environment, world, lambda seen, uniform: act(lives.learner.params, seen, uniform), noise)
        return first_returns(steps).mean(dim=1)

    def _order(self, num: int, generator: Generator, copies: int) -> list[Tensor | None]:
        """Which samples each update learns from: (lanes, size); None for all."""
        a = self.algorithm
        if a.num_minibatches == 1:
            return [None] * a.num_epochs
        found: list[Tensor | None] = []
        for _ in range(a.num_epochs):
            order = torch.rand(num // copies, a.num_samples, generator=generator).argsort(dim=-1).repeat(copies, 1)
            found += order.chunk(a.num_minibatches, dim=-1)
        return found

    def _spread(self, world: World) -> World:
        return spread_over(world, self.algorithm.num_envs, dim=1)

    def report(self, experience: Rollout, losses: Losses) -> Report:
        """What came of an iteration."""
        least = self.algorithm.num_samples / self.environment.max_steps
        ended = experience.done.sum(dim=(0, 2)).clamp(min=least)
        episode_return = experience.reward.sum(dim=(0, 2)) / ended
        losses = tree_map(lambda x: x.detach(), losses)
        return Report(experience.reward.mean(dim=(0, 2)), episode_return, losses, ended)


class Curves(NamedTuple):
    """Lifetimes from start to end: reports stacked over iterations, and what became of them."""

    report: Report
    lives: Lives

    @property
    def area(self) -> Float[Tensor, " lanes"]:
        """Mean episode return over the whole of each life."""
        return self.report.episode_return.mean(dim=0)

    @property
    def final(self) -> Float[Tensor, " lanes"]:
        """Mean episode return over the last quarter of each life."""
        returns = self.report.episode_return
        return returns[-max(1, len(returns) // 4) :].mean(dim=0)


def run(
    environment: Environment,
    policy: Policy,
    rule: UpdateRule,
    hyperparameters: Hyperparameters | None = None,
    num_lifetimes: int = 64,
    num_iterations: int = 20,
    *,
    generator: Generator,
    algorithm: PPO | None = None,
    theta: Theta | None = None,
    copies: int = 1,
) -> Curves:
    """Train `num_lifetimes` agents, each in a world of its own, from first to last iteration.

    Arguments:
        hyperparameters: see `Lifetimes.advance`; the defaults if None.
        algorithm: `PPO()` if None.
        theta, copies: see `Lifetimes.run`.

    Raises:
        ValueError: a size, a shape of theta or of a hyperparameter does not fit.
    """
    lifetimes = Lifetimes(environment, policy, rule, algorithm or PPO())
    hyperparameters = hyperparameters or Hyperparameters()
    return lifetimes.run(hyperparameters, num_lifetimes, num_iterations, generator, theta, copies)


def _taken(x: Tensor, index: Tensor) -> Tensor:
    """Samples of each lane."""
    return x[torch.arange(len(x), device=x.device).unsqueeze(-1), index]

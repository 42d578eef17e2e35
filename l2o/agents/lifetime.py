"""Whole training lifetimes, hundreds in one batch: each lane has a world and a policy, trained by a rule with PPO."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.func import functional_call, grad, vmap

from l2o.agents.advantages import gae, normalised
from l2o.agents.environments.base import Environment, World, spread_over
from l2o.agents.episodes import Noise, Rollout, Running, begin, draw, rollout
from l2o.agents.losses import Hyperparameters, Losses, clipped, ppo_loss
from l2o.agents.policy import Policy
from l2o.inner_loop import InnerState, repeat_lanes, theta_axis
from l2o.rules.base import UpdateRule
from l2o.types import Params, Theta, tree_map, tree_stack


@dataclass(frozen=True)
class PPO:
    """How much an agent acts between updates, and how often it learns from that (Schulman et al., 2017).

    With one epoch and one minibatch it takes the steps of A2C.

    Arguments:
        num_envs: episodes at once.
        num_steps: steps in each of them, an iteration.
        num_epochs: passes over an iteration's steps.
        num_minibatches: updates in a pass.
        normalise: advantages are brought to mean 0 and deviation 1 within a minibatch.
    """

    num_envs: int = 16
    num_steps: int = 32
    num_epochs: int = 4
    num_minibatches: int = 1
    normalise: bool = True

    def __post_init__(self) -> None:
        for name in ("num_envs", "num_steps", "num_epochs", "num_minibatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")
        if self.num_samples % self.num_minibatches:
            raise ValueError(
                "num_minibatches must divide num_envs * num_steps, so that minibatches are of one size; got "
                f"{self.num_minibatches} for {self.num_samples}."
            )

    @property
    def num_samples(self) -> int:
        """Steps of an iteration, all environments together."""
        return self.num_envs * self.num_steps

    @property
    def num_updates(self) -> int:
        """Updates of an iteration."""
        return self.num_epochs * self.num_minibatches


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


class Minibatch(NamedTuple):
    """What an update learns from."""

    observation: Float[Tensor, "n o"]
    action: Tensor
    log_prob: Float[Tensor, " n"]
    advantage: Float[Tensor, " n"]
    target: Float[Tensor, " n"]


@dataclass(frozen=True)
class Lifetimes:
    """Agents of one kind, trained side by side.

    Arguments:
        environment: the family whose worlds they live in.
        policy: what is trained.
        rule: how its parameters move.
        algorithm: how much is done between updates.
    """

    environment: Environment
    policy: Policy
    rule: UpdateRule
    algorithm: PPO = field(default_factory=PPO)

    def start(self, num: int, num_iterations: int, generator: Generator, copies: int = 1) -> Lives:
        """Fresh policies in fresh worlds.

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
        first = torch.rand(unique, self.algorithm.num_envs, self.environment.reset_noise, generator=generator)
        world, params, first = repeat_lanes((world, params, first), copies)
        total = torch.full((num,), float(num_iterations * self.algorithm.num_updates)).double()
        with torch.no_grad():
            opt = tree_map(lambda x: x.contiguous(), vmap(self.rule.init)(params, total))
        running = begin(self.environment, self._spread(world), first)
        return Lives(world, running, InnerState(params, opt))

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
        with_advantages = vmap(_prepare, in_dims=(None, 0, 1, 0))
        samples = with_advantages(self.policy, learner.params, experience, hyper)
        update = _lane_update(self.rule, self.policy, self.algorithm.normalise, axis)
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


@torch.no_grad()
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
        theta: the rule's own if None; with a leading axis of lanes, each life has a rule of its own.
        copies: see `Lifetimes.start`.

    Raises:
        ValueError: a size, a shape of theta or of a hyperparameter does not fit.
    """
    if num_iterations < 1:
        raise ValueError(f"num_iterations must be at least 1; got {num_iterations}.")
    lifetimes = Lifetimes(environment, policy, rule, algorithm or PPO())
    theta = dict(rule.named_parameters()) if theta is None else theta
    lives = lifetimes.start(num_lifetimes, num_iterations, generator, copies)
    reports = []
    for _ in range(num_iterations):
        lives, report = lifetimes.advance(theta, lives, hyperparameters or Hyperparameters(), generator, copies)
        reports.append(report)
    return Curves(tree_stack(reports), lives)


def _prepare(policy: Policy, params: Params, steps: Rollout, hyper: Hyperparameters) -> Minibatch:
    """One lane's steps as samples, (steps * envs)."""
    found = gae(
        hyper.reward_scale * steps.reward,
        policy.value(params, steps.observation),
        policy.value(params, steps.next_observation),
        steps.terminated,
        steps.done,
        hyper.discount,
        hyper.decay,
    )
    return Minibatch(*(x.flatten(0, 1) for x in (steps.observation, steps.action, steps.log_prob, *found)))


@lru_cache(maxsize=32)
def _lane_update(
    rule: UpdateRule, policy: Policy, normalise: bool, axis: int | None
) -> Callable[[Theta, InnerState, Minibatch, Hyperparameters], tuple[InnerState, Losses]]:
    def update(
        theta: Theta, learner: InnerState, batch: Minibatch, hyper: Hyperparameters
    ) -> tuple[InnerState, Losses]:
        def objective(params: Params) -> tuple[Tensor, Losses]:
            losses = _ppo(policy, params, batch, hyper, normalise)
            return losses.total, losses

        grads, losses = grad(objective, has_aux=True)(learner.params)
        grads = clipped(grads, hyper.max_grad_norm)
        updates, opt = functional_call(rule, theta, (grads, learner.opt, learner.params, losses.total))
        params = {name: p + hyper.learning_rate * updates[name] for name, p in learner.params.items()}
        return InnerState(params, opt), losses

    def lanes(theta: Theta, learner: InnerState, batch: Minibatch, hyper: Hyperparameters) -> tuple[InnerState, Losses]:
        return vmap(update, in_dims=(axis, 0, 0, 0))(theta, learner, batch, hyper)

    return lanes


def _ppo(policy: Policy, params: Params, batch: Minibatch, hyper: Hyperparameters, normalise: bool) -> Losses:
    distribution, value = policy.forward(params, batch.observation)
    return ppo_loss(
        distribution.log_prob(batch.action) - batch.log_prob,
        normalised(batch.advantage) if normalise else batch.advantage,
        distribution.entropy(),
        value,
        batch.target,
        hyper.clip,
        hyper.entropy,
        hyper.value,
    )


def _taken(x: Tensor, index: Tensor) -> Tensor:
    """Samples of each lane."""
    return x[torch.arange(len(x), device=x.device).unsqueeze(-1), index]

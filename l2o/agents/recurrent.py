"""Agents that adapt by remembering: RL^2 (Duan et al., 2016, https://arxiv.org/abs/1611.02779).

Also Wang et al., 2016 (https://arxiv.org/abs/1611.05763).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Generator, Tensor, nn
from torch.func import functional_call

from l2o.agents.advantages import gae, normalised
from l2o.agents.environments.base import Discrete, Environment, World
from l2o.agents.episodes import Noise, draw
from l2o.agents.losses import a2c_loss
from l2o.agents.policy import FIRST_GAIN, Categorical, Distribution, Gaussian
from l2o.configured import Configured
from l2o.estimators.base import GradientEstimator, MetaGradient
from l2o.saved import register
from l2o.types import Theta, seeded, tree_stack


class Before(NamedTuple):
    """What an agent did last, and what came of it; zeros at a trial's start.

    action: one-hot, or in units of the limit.
    """

    action: Float[Tensor, "lanes a"]
    reward: Float[Tensor, " lanes"]
    done: Float[Tensor, " lanes"]


@register
class RL2(Configured):
    """A GRU over (observation, last action, last reward, last done) whose memory lasts over a whole trial.

    A trial is a world, in which episodes follow each other; what the weights learn is how to explore it in the first
    ones and how to exploit it in the last. The critic may see the world in meta-training (Pinto et al., 2017,
    https://arxiv.org/abs/1710.06542); the actor does not.

    Arguments:
        observation_size: numbers in an observation.
        action_size: actions to choose from, or numbers of an action.
        discrete: which of the two.
        limit: of an action's numbers.
        hidden_size: numbers of memory.
        world_size: numbers of a world that the critic sees; 0 for none.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        discrete: bool = True,
        limit: float = 1.0,
        hidden_size: int = 64,
        world_size: int = 0,
    ) -> None:
        super().__init__()
        if min(observation_size, action_size, hidden_size) < 1 or world_size < 0:
            raise ValueError(f"sizes must be at least 1; got {self.config}.")
        self.action_size, self.discrete, self.limit, self.hidden_size = action_size, discrete, limit, hidden_size
        self.cell = nn.GRUCell(observation_size + action_size + 2, hidden_size)
        self.actor = nn.Linear(hidden_size, action_size)
        self.critic = nn.Sequential(
            nn.Linear(hidden_size + world_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, 1)
        )
        nn.init.uniform_(self.actor.weight, -FIRST_GAIN / hidden_size**0.5, FIRST_GAIN / hidden_size**0.5)
        nn.init.zeros_(self.actor.bias)
        if not discrete:
            self.log_std = nn.Parameter(torch.zeros(action_size))

    @classmethod
    def of(cls, environment: Environment, hidden_size: int = 64, sees_world: bool = True) -> RL2:
        """One that fits an environment."""
        space = environment.action_space
        size = _numbers(environment.sample(seeded(0), 1)).shape[-1] if sees_world else 0
        if isinstance(space, Discrete):
            return cls(environment.observation_size, space.num, hidden_size=hidden_size, world_size=size)
        return cls(environment.observation_size, space.size, False, space.limit, hidden_size, size)

    def start(self, lanes: int) -> tuple[Float[Tensor, "lanes hidden"], Before]:
        """Nothing to remember."""
        zero = torch.zeros(lanes)
        return torch.zeros(lanes, self.hidden_size), Before(torch.zeros(lanes, self.action_size), zero, zero)

    def forward(
        self,
        hidden: Float[Tensor, "lanes hidden"],
        observation: Float[Tensor, "lanes o"],
        before: Before,
        world: Float[Tensor, "lanes w"],
    ) -> tuple[Float[Tensor, "lanes a"], Float[Tensor, " lanes"], Float[Tensor, "lanes hidden"]]:
        """The actor's outputs, the state's value, and the memory."""
        last = torch.stack([before.reward, before.done], dim=-1)
        hidden = self.cell(torch.cat([observation, before.action, last], dim=-1), hidden)
        value = self.critic(torch.cat([hidden, world], dim=-1)).squeeze(-1)
        return self.actor(hidden), value, hidden

    def distribution(self, theta: Theta, outputs: Float[Tensor, "lanes a"]) -> Distribution:
        """Of actions."""
        if self.discrete:
            return Categorical(outputs)
        unit = self.limit / 2.0
        return Gaussian(unit * outputs, (theta["log_std"] + math.log(unit)).expand_as(outputs))

    def shown(self, action: Shaped[Tensor, "..."]) -> Float[Tensor, "lanes a"]:
        """An action as it is remembered."""
        if self.discrete:
            return nn.functional.one_hot(action, self.action_size).float()
        return (action / self.limit).clamp(-1.0, 1.0)


class Trial(NamedTuple):
    """Steps of a batch of trials, time first; differentiable in theta but for actions.

    paid: what the environment paid. reward: what is learned from.
    """

    action: Shaped[Tensor, "..."]
    log_prob: Float[Tensor, "steps lanes"]
    entropy: Float[Tensor, "steps lanes"]
    value: Float[Tensor, "steps lanes"]
    paid: Float[Tensor, "steps lanes"]
    reward: Float[Tensor, "steps lanes"]
    done: Bool[Tensor, "steps lanes"]


Teaching = Callable[[World, Tensor], Tensor]
"""(world, action) -> what to learn from in place of the reward, known in meta-training only: the same in the mean over
worlds, but for what no action can change, with less noise."""


def play(
    model: RL2,
    theta: Theta,
    environment: Environment,
    world: World,
    noise: Noise,
    greedy: bool = False,
    teaching: Teaching | None = None,
) -> Trial:
    """Trials, a lane each, for as many steps as there is noise for, but for the first of it, which begins them.

    Arguments:
        greedy: take the likeliest action, or the mean.
    """
    lanes = noise.action.shape[1]
    hidden, before = model.start(lanes)
    seen_world = _numbers(world) if model.config["world_size"] else torch.zeros(lanes, 0)
    state, age = environment.reset(world, noise.reset[0]), torch.zeros(lanes, dtype=torch.int64)
    steps = []
    for i in range(1, noise.action.shape[0]):
        seen = environment.observe(world, state)
        outputs, value, hidden = functional_call(model, theta, (hidden, seen, before, seen_world))
        distribution = model.distribution(theta, outputs)
        with torch.no_grad():
            action = _likeliest(distribution) if greedy else distribution.sample(noise.action[i])
            state, paid, terminated = environment.step(world, state, action, noise.step[i])
            age = age + 1
            done = terminated | (age >= environment.max_steps)
            state = environment.restart(world, state, done, noise.reset[i])
            age = torch.where(done, 0, age)
            reward = paid if teaching is None else teaching(world, action)
            before = Before(model.shown(action), paid, done.to(paid.dtype))
        steps.append(Trial(action, distribution.log_prob(action), distribution.entropy(), value, paid, reward, done))
    return tree_stack(steps)


class RL2State(NamedTuple):
    """How many estimates have been made; worlds are drawn afresh for each."""

    num_estimates: Int[Tensor, ""]


@dataclass(frozen=True)
class RL2Gradient(GradientEstimator):
    """Advantage actor-critic over whole trials, through the memory; the meta-loss is minus what a trial paid.

    What an episode brings counts in later ones: returns run over a trial's end only, with generalised advantages.

    Arguments:
        model: actor and critic.
        environment: pure; each trial is in a world of its own.
        num_steps: of a trial, several episodes' or one's.
        num_trials: of an estimate.
        decay: lambda.
        discount: a step, over the trial.
        entropy: weight of the entropy at first; it falls to zero along a line over `anneal` estimates.
        value: weight of the squared error of values.
        scale: factor on rewards, for values of order 1. Of trials of many steps it must be small, or the critic's error
            leaves the actor nothing of a clipped gradient.
        teaching: see `Teaching`.
    """

    model: RL2
    environment: Environment
    num_steps: int
    num_trials: int = 256
    decay: float = 0.95
    discount: float = 1.0
    entropy: float = 0.003
    anneal: int = 1000
    value: float = 0.5
    scale: float = 1.0
    teaching: Teaching | None = None

    def __post_init__(self) -> None:
        if not self.environment.is_pure or self.num_steps < 1 or self.num_trials < 1 or self.anneal < 1:
            raise ValueError(
                "trials need a pure environment, a step, a trial and anneal of at least 1; got "
                f"{self.environment!r}, {self.num_steps}, {self.num_trials}, {self.anneal}."
            )

    @property
    def module(self) -> nn.Module:
        return self.model

    def init(self, theta: Theta, generator: Generator) -> RL2State:
        return RL2State(torch.zeros((), dtype=torch.int64))

    def estimate(self, theta: Theta, state: RL2State, generator: Generator) -> tuple[MetaGradient, RL2State]:
        world = self.environment.sample(generator, self.num_trials)
        noise = draw(self.environment, generator, self.num_steps + 1, self.num_trials)
        leaves = {name: p.detach().requires_grad_() for name, p in theta.items()}
        left = max(0.0, 1.0 - float(state.num_estimates) / self.anneal)
        with torch.enable_grad():
            trial = play(self.model, leaves, self.environment, world, noise, teaching=self.teaching)
            loss = self._loss(trial, self.entropy * left)
            grads = torch.autograd.grad(loss, list(leaves.values()))
        paid = -trial.paid.sum(dim=0).mean()
        found = MetaGradient(dict(zip(leaves, grads, strict=True)), paid, {"entropy": trial.entropy.mean().detach()})
        return found, RL2State(state.num_estimates + 1)

    def _loss(self, trial: Trial, entropy: float) -> Float[Tensor, ""]:
        value = trial.value.detach()
        end = torch.zeros_like(trial.done)
        end[-1] = True
        later = torch.cat([value[1:], torch.zeros_like(value[:1])])
        found = gae(self.scale * trial.reward, value, later, end, end, self.discount, self.decay)
        advantage = normalised(found.advantage)
        return a2c_loss(trial.log_prob, advantage, trial.entropy, trial.value, found.target, entropy, self.value).total


@torch.no_grad()
def evaluate(
    model: RL2, environment: Environment, num_steps: int, num_trials: int, generator: Generator, greedy: bool = True
) -> Float[Tensor, "steps trials"]:
    """What trials in fresh worlds pay at every step."""
    world = environment.sample(generator, num_trials)
    noise = draw(environment, generator, num_steps + 1, num_trials)
    return play(model, dict(model.named_parameters()), environment, world, noise, greedy).paid


def _numbers(world: World) -> Float[Tensor, "lanes w"]:
    """All that differs between worlds, in one vector."""
    return torch.cat([x.flatten(1).float() if x.ndim > 1 else x.unsqueeze(-1).float() for x in world.values()], dim=-1)


def _likeliest(distribution: Distribution) -> Tensor:
    return distribution.logits.argmax(dim=-1) if isinstance(distribution, Categorical) else distribution.mean

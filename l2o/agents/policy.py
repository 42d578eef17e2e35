"""Policies as pure functions of a dict of parameters: what to do, and what a state is worth."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int, Shaped
from torch import Generator, Tensor

from l2o.agents.environments.base import Box, Discrete, Environment
from l2o.tasks.nets import GAIN, Activation, apply_mlp, init_mlp
from l2o.types import Params

FIRST_GAIN = 0.1
"""Of the actor's output layer: actions are nearly equally likely at first."""

SMALLEST_NOISE = 2.0**-25


class Categorical(NamedTuple):
    """Actions 0 to n - 1 with probabilities softmax(logits)."""

    logits: Float[Tensor, "*batch n"]

    def sample(self, noise: Float[Tensor, "*batch 1"]) -> Int[Tensor, "*batch"]:
        """Actions from uniform numbers, by the inverse of the distribution function."""
        below = self.logits.softmax(dim=-1).cumsum(dim=-1) <= noise
        return below.sum(dim=-1).clamp(max=self.logits.shape[-1] - 1)  # sums may end below 1

    def log_prob(self, action: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Logarithms of actions' probabilities."""
        return self.logits.log_softmax(dim=-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """In nats."""
        log_probs = self.logits.log_softmax(dim=-1)
        return -(log_probs.exp() * log_probs).sum(dim=-1)


class Gaussian(NamedTuple):
    """Independent normal numbers; what is beyond an environment's limits is its affair, not the density's."""

    mean: Float[Tensor, "*batch n"]
    log_std: Float[Tensor, "*batch n"]

    def sample(self, noise: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """Actions from uniform numbers, by the inverse of the distribution function."""
        return self.mean + self.log_std.exp() * torch.special.ndtri(noise.clamp(min=SMALLEST_NOISE))

    def log_prob(self, action: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
        """Logarithms of actions' densities."""
        z = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * z.square() - self.log_std - 0.5 * math.log(2.0 * math.pi)).sum(dim=-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """In nats."""
        return (self.log_std + 0.5 * math.log(2.0 * math.pi * math.e)).sum(dim=-1)


Distribution: TypeAlias = Categorical | Gaussian


class Policy(ABC):
    """An actor and a critic; a frozen dataclass, and every method a pure function."""

    @abstractmethod
    def init(self, generator: Generator) -> Params:
        """Fresh parameters."""

    @abstractmethod
    def forward(
        self, params: Params, observation: Float[Tensor, "*batch o"]
    ) -> tuple[Distribution, Float[Tensor, "*batch"]]:
        """The distribution of actions, and the state's value: what discounted rewards from here should sum to."""

    def act(
        self, params: Params, observation: Float[Tensor, "*batch o"], noise: Float[Tensor, "*batch a"]
    ) -> tuple[Shaped[Tensor, "..."], Float[Tensor, "*batch"]]:
        """Actions, drawn by uniform numbers, and their log-probabilities."""
        distribution = self.distribution(params, observation)
        action = distribution.sample(noise)
        return action, distribution.log_prob(action)

    def distribution(self, params: Params, observation: Float[Tensor, "*batch o"]) -> Distribution:
        """The distribution of actions alone."""
        return self.forward(params, observation)[0]

    def value(self, params: Params, observation: Float[Tensor, "*batch o"]) -> Float[Tensor, "*batch"]:
        """The values of states alone."""
        return self.forward(params, observation)[1]


@dataclass(frozen=True)
class ActorCritic(Policy):
    """Two perceptrons, or one with two heads.

    Numbers are drawn around the actor's outputs, in units of half the limit, with a learned deviation for each.

    Arguments:
        observation_size, action_space: see `Environment` (or `ActorCritic.of`).
        hidden: width of each hidden layer.
        activation: nonlinearity.
        shared: actor and critic have hidden layers in common.
    """

    observation_size: int
    action_space: Discrete | Box
    hidden: tuple[int, ...] = (32,)
    activation: Activation = "tanh"
    shared: bool = False

    def __post_init__(self) -> None:
        if self.activation not in GAIN:
            raise ValueError(f"activation must be one of {', '.join(GAIN)}; got {self.activation!r}.")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden layers need a unit each; got {self.hidden}.")

    @classmethod
    def of(
        cls,
        environment: Environment,
        hidden: tuple[int, ...] = (32,),
        activation: Activation = "tanh",
        shared: bool = False,
    ) -> ActorCritic:
        """A policy that fits an environment."""
        return cls(environment.observation_size, environment.action_space, hidden, activation, shared)

    def init(self, generator: Generator) -> Params:
        sizes, gain = (self.observation_size, *self.hidden), GAIN[self.activation]
        if self.shared:
            params = init_mlp(generator, (*sizes, self._num_outputs + 1), gain, "both.")
            params[f"both.{len(self.hidden)}.weight"][:-1] *= FIRST_GAIN
        else:
            params = init_mlp(generator, (*sizes, self._num_outputs), gain, "actor.")
            params[f"actor.{len(self.hidden)}.weight"] *= FIRST_GAIN
            params |= init_mlp(generator, (*sizes, 1), gain, "critic.")
        if isinstance(self.action_space, Box):
            params["log_std"] = torch.zeros(self.action_space.size)
        return params

    def forward(
        self, params: Params, observation: Float[Tensor, "*batch o"]
    ) -> tuple[Distribution, Float[Tensor, "*batch"]]:
        if self.shared:
            outputs = apply_mlp(params, observation, self.activation, "both.")
            return self._distribution(params, outputs[..., :-1]), outputs[..., -1]
        return self.distribution(params, observation), self.value(params, observation)

    def distribution(self, params: Params, observation: Float[Tensor, "*batch o"]) -> Distribution:
        if self.shared:
            return self.forward(params, observation)[0]
        return self._distribution(params, apply_mlp(params, observation, self.activation, "actor."))

    def value(self, params: Params, observation: Float[Tensor, "*batch o"]) -> Float[Tensor, "*batch"]:
        if self.shared:
            return self.forward(params, observation)[1]
        return apply_mlp(params, observation, self.activation, "critic.").squeeze(-1)

    @property
    def _num_outputs(self) -> int:
        return self.action_space.num if isinstance(self.action_space, Discrete) else self.action_space.size

    def _distribution(self, params: Params, outputs: Float[Tensor, "*batch n"]) -> Distribution:
        if isinstance(self.action_space, Discrete):
            return Categorical(outputs)
        unit = self.action_space.limit / 2.0
        return Gaussian(unit * outputs, (params["log_std"] + math.log(unit)).expand_as(outputs))

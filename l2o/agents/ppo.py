"""Proximal policy optimization: how much an agent acts between updates, and what an update is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, grad, vmap

from l2o.agents.advantages import gae, normalised
from l2o.agents.episodes import Rollout
from l2o.agents.losses import Hyperparameters, Losses, clipped, ppo_loss
from l2o.agents.policy import Policy
from l2o.inner_loop import InnerState
from l2o.rules.base import UpdateRule
from l2o.types import Params, Theta


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


class Minibatch(NamedTuple):
    """What an update learns from."""

    observation: Float[Tensor, "n o"]
    action: Tensor
    log_prob: Float[Tensor, " n"]
    advantage: Float[Tensor, " n"]
    target: Float[Tensor, " n"]


def prepare(policy: Policy, params: Params, steps: Rollout, hyper: Hyperparameters) -> Minibatch:
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
def lane_update(
    rule: UpdateRule, policy: Policy, normalise: bool, axis: int | None
) -> Callable[[Theta, InnerState, Minibatch, Hyperparameters], tuple[InnerState, Losses]]:
    """The update of a batch of lanes, each from a minibatch of its own."""

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

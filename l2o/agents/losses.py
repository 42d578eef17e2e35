"""Losses of policy gradients, differentiable in their hyperparameters, which may be tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from l2o.agents.advantages import Number
from l2o.types import Params


class Hyperparameters(NamedTuple):
    """How an agent adapts: numbers, or tensors, with a gradient if so wished; in a batch of lifetimes, one a lane.

    learning_rate: multiplies the rule's whole step, as `lr` does in the drop-in.
    discount: of rewards to come, a step, in [0, 1].
    decay: lambda of generalised advantages, in [0, 1].
    clip: how far PPO's probability ratios count, > 0.
    entropy: weight of the entropy, which is made large.
    value: weight of the squared error of values.
    reward_scale: factor on rewards, so that values are of order 1.
    max_grad_norm: of all gradients of a step together.
    """

    learning_rate: Number = 1.0
    discount: Number = 0.99
    decay: Number = 0.95
    clip: Number = 0.2
    entropy: Number = 0.0
    value: Number = 0.5
    reward_scale: Number = 1.0
    max_grad_norm: Number = 0.5

    def by_lane(self, num: int) -> Hyperparameters:
        """Each as a tensor of one number a lane.

        Raises:
            ValueError: one is neither a single number nor as many as there are lanes.
        """
        tensors = {name: torch.as_tensor(value) for name, value in self._asdict().items()}
        for name, value in tensors.items():
            if value.ndim > 1 or value.numel() not in (1, num):
                raise ValueError(
                    f"{name} must be a number or one for each of {num} lanes; got shape {tuple(value.shape)}."
                )
        floats = {name: (x if x.is_floating_point() else x.float()).expand(num) for name, x in tensors.items()}
        return Hyperparameters(**floats)


class Losses(NamedTuple):
    """What is minimised, `total`, and the parts it weighs, each without its weight (`entropy` is the entropy)."""

    total: Float[Tensor, ""]
    policy: Float[Tensor, ""]
    value: Float[Tensor, ""]
    entropy: Float[Tensor, ""]


def a2c_loss(
    log_prob: Float[Tensor, "*n"],
    advantage: Float[Tensor, "*n"],
    entropy: Float[Tensor, "*n"],
    value: Float[Tensor, "*n"],
    target: Float[Tensor, "*n"],
    entropy_weight: Number = 0.0,
    value_weight: Number = 0.5,
) -> Losses:
    """Advantage actor-critic (Mnih et al., 2016, https://arxiv.org/abs/1602.01783): means over all axes.

    policy = -log pi(a|s) A, value = (V(s) - target)^2. `advantage` and `target` are constants to the algorithm;
    they are not cut off here, so that meta-gradients can pass through them.
    """
    return _weighed(-(log_prob * advantage).mean(), value, target, entropy, entropy_weight, value_weight)


def ppo_loss(
    log_ratio: Float[Tensor, "*n"],
    advantage: Float[Tensor, "*n"],
    entropy: Float[Tensor, "*n"],
    value: Float[Tensor, "*n"],
    target: Float[Tensor, "*n"],
    clip: Number = 0.2,
    entropy_weight: Number = 0.0,
    value_weight: Number = 0.5,
) -> Losses:
    """Proximal policy optimization, clipped (Schulman et al., 2017, https://arxiv.org/abs/1707.06347, equation 9).

    policy = -min(r A, clamp(r, 1 - clip, 1 + clip) A), otherwise as `a2c_loss`. What the clip cuts off has no gradient
    in the parameters, so a meta-gradient of `clip` through an update is zero almost everywhere.

    Arguments:
        log_ratio: log pi(a|s) less what it was when acting; r is its exponential.
    """
    ratio = log_ratio.exp()
    low, high = 1.0 - clip, 1.0 + clip
    bounded = ratio.clamp(low, high)  # type: ignore[arg-type]
    policy = -torch.minimum(ratio * advantage, bounded * advantage).mean()
    return _weighed(policy, value, target, entropy, entropy_weight, value_weight)


def clipped(grads: Params, max_norm: float | Tensor) -> Params:
    """Gradients, scaled down where their norm, of all together, is above a limit."""
    square = torch.stack([g.square().sum() for g in grads.values()]).sum()
    scale = (max_norm * torch.rsqrt(square + 1e-12)).clamp(max=1.0)
    return {name: scale * g for name, g in grads.items()}


def _weighed(
    policy: Tensor, value: Tensor, target: Tensor, entropy: Tensor, entropy_weight: Number, value_weight: Number
) -> Losses:
    error, surprise = (value - target).square().mean(), entropy.mean()
    return Losses(policy + value_weight * error - entropy_weight * surprise, policy, error, surprise)

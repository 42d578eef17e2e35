"""What actions were worth: generalised advantages and V-trace, differentiable in all that they are given.

Time is the first axis; all other axes are a batch. Discounts and decays are numbers or tensors that broadcast over the
batch.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Number: TypeAlias = float | Tensor


class Advantages(NamedTuple):
    """What an action was worth beyond the state's value, and what the value should have been."""

    advantage: Float[Tensor, "steps *batch"]
    target: Float[Tensor, "steps *batch"]


def gae(
    reward: Float[Tensor, "steps *batch"],
    value: Float[Tensor, "steps *batch"],
    next_value: Float[Tensor, "steps *batch"],
    terminated: Bool[Tensor, "steps *batch"],
    done: Bool[Tensor, "steps *batch"],
    discount: Number = 0.99,
    decay: Number = 0.95,
) -> Advantages:
    """Generalised advantage estimates (Schulman et al., 2016, https://arxiv.org/abs/1506.02438, equation 16).

    With delta_t = r_t + discount (1 - terminated_t) V(s_{t+1}) - V(s_t),

        A_t = delta_t + discount decay (1 - done_t) A_{t+1}.

    Arguments:
        next_value: of the state after each step, before another episode began.
        terminated: the episode ended: nothing more is to come.
        done: it ended or was cut by a time limit: what comes next belongs to another episode.
        decay: lambda: 0 trusts the values, 1 the rewards.
    """
    ahead = discount * ~terminated * next_value
    advantage = discounted_sum(reward + ahead - value, discount * decay * ~done)
    return Advantages(advantage, advantage + value)


def vtrace(
    log_ratio: Float[Tensor, "steps *batch"],
    reward: Float[Tensor, "steps *batch"],
    value: Float[Tensor, "steps *batch"],
    next_value: Float[Tensor, "steps *batch"],
    terminated: Bool[Tensor, "steps *batch"],
    done: Bool[Tensor, "steps *batch"],
    discount: Number = 0.99,
    decay: Number = 1.0,
    max_rho: Number = 1.0,
    max_c: Number = 1.0,
) -> Advantages:
    """V-trace for actions of another policy (Espeholt et al., 2018, https://arxiv.org/abs/1802.01561, section 4.1).

    With rho = min(max_rho, pi/mu), c = decay min(max_c, pi/mu), and delta as in `gae`,

        v_t - V_t = rho_t delta_t + discount (1 - done_t) c_t (v_{t+1} - V_{t+1}),
        A_t = rho_t (r_t + discount v_{t+1} - V_t),

    where v_{t+1} is V(s_{t+1}) at the last step, at time limits and ends.

    Arguments:
        log_ratio: log pi(a|s) - log mu(a|s), of the policy that learns over the one that acted.
        max_rho, max_c: bounds of the two weights; rho's decides what is converged to, c's how fast.
    """
    ratio = log_ratio.exp()
    rho, c = _at_most(ratio, max_rho), decay * _at_most(ratio, max_c)
    ahead = discount * ~terminated * next_value
    correction = discounted_sum(rho * (reward + ahead - value), discount * c * ~done)
    later = torch.cat([correction[1:], torch.zeros_like(correction[:1])])
    advantage = rho * (reward + ahead + discount * ~done * later - value)
    return Advantages(advantage, correction + value)


def discounted_sum(
    x: Float[Tensor, "steps *batch"], factor: Float[Tensor, "steps *batch"]
) -> Float[Tensor, "steps *batch"]:
    """y_t = x_t + factor_t y_{t+1}, with y = 0 after the end: by doubling, in log2(steps) operations on all steps."""
    steps, reach = x.shape[0], 1
    while reach < steps:
        further = x[reach:]
        x = torch.cat([x[:-reach] + factor[:-reach] * further, x[-reach:]])
        if 2 * reach < steps:
            factor = torch.cat([factor[:-reach] * factor[reach:], torch.zeros_like(factor[-reach:])])
        reach *= 2
    return x


def normalised(advantage: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Advantages with mean 0 and deviation 1."""
    centred = advantage - advantage.mean()
    return centred / (torch.sqrt(centred.square().mean() + 1e-12) + 1e-5)


def _at_most(x: Tensor, bound: Number) -> Tensor:
    return torch.minimum(x, bound.to(x)) if isinstance(bound, Tensor) else x.clamp(max=bound)

"""What a rule sees of the training loss: where its running averages stand between their lowest and a slower one.

After Metz et al. (2022, https://arxiv.org/abs/2211.09760), appendix B.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

NUM_AVERAGES = 10
NUM_LOSS_FEATURES = NUM_AVERAGES - 1
UNKNOWN_LENGTH = 1e5
"""Slowest half-life where the length of the run is not known; the paper always knows it."""

LossState = dict[str, Tensor]


def init_losses(total_steps: Float[Tensor, ""], shortest: float = 10.0) -> LossState:
    """No loss seen yet; half-lives from 10 steps to the whole run, evenly on a logarithmic scale.

    Arguments:
        total_steps: length of the run; 0 where it is not known.
        shortest: runs are taken to be at least this long.
    """
    length = torch.where(total_steps > 0, total_steps, UNKNOWN_LENGTH).clamp(min=shortest)
    exponents = torch.linspace(0.0, 1.0, NUM_AVERAGES, dtype=length.dtype, device=length.device)
    half_lives = 10.0 * (length / 10.0) ** exponents
    zeros = torch.zeros_like(half_lives)
    return {
        "loss_log_decays": -1.0 / half_lives,
        "loss_means": zeros,
        "loss_lowest": zeros,
        "loss_count": torch.zeros_like(length),
    }


def update_losses(state: LossState, loss: Float[Tensor, ""], early: bool = False) -> LossState:
    """One more loss, at most twice the largest average so far: a spike must not drown the rest of the run.

    Arguments:
        early: count the loss among those averaged before it is, as the published code does; the cap is then lower, of
            the second loss about the first.
    """
    loss = loss.to(state["loss_means"].dtype)
    first = state["loss_count"] == 0
    finite = torch.isfinite(loss)
    loss = torch.where(finite, loss, 0.0)
    cap = 2.0 * _corrected(state, int(early)).amax().abs()
    loss = torch.where(first, loss, torch.where(finite, torch.minimum(cap, loss), cap))
    means = torch.lerp(state["loss_means"], loss, -torch.expm1(state["loss_log_decays"]))
    state = state | {"loss_means": means, "loss_count": state["loss_count"] + 1}
    now = _corrected(state)
    return state | {"loss_lowest": torch.where(first, now, torch.minimum(state["loss_lowest"], now))}


def loss_features(state: LossState) -> Float[Tensor, " k"]:
    """For each average but the slowest: -1 at its lowest, 0 at the next slower average, at most 1; 0 for two steps."""
    now = _corrected(state)
    lowest = state["loss_lowest"][:-1]
    place = (now[:-1] - lowest) / (now[1:] - lowest).clamp(min=1e-8)
    return torch.where(state["loss_count"] > 2, (place - 1.0).clamp(-1.0, 1.0), 0.0)


def _corrected(state: LossState, more: int = 0) -> Float[Tensor, " k"]:
    """The averages without the zeros that they started from, as if `more` losses had been averaged."""
    count = (state["loss_count"] + more).clamp(min=1.0)
    return state["loss_means"] / -torch.expm1(count * state["loss_log_decays"])

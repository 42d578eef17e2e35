"""A network over tensors: from how training goes to how far each tensor moves, and how far back it looks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from l2o.rules.features import fraction_features, fraction_trained
from l2o.rules.loss_features import NUM_LOSS_FEATURES, loss_features

THRESHOLDS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)
COSINE_RATES = (0.1, 0.01)
NUM_COSINES = 2 * len(COSINE_RATES)
NUM_RECALLED = NUM_COSINES + 2
EXPONENTS = (0.5, 0.4)
"""Of what acts on a step directly: size of the tensor, signal of a matrix."""
NUM_FEATURES = len(THRESHOLDS) + 1 + NUM_LOSS_FEATURES + 1 + 3 + NUM_COSINES + len(EXPONENTS) + 1
WARMUP = 0.05
USUAL_SIGNAL = 1.5
"""Minus the logarithm of a matrix's fast momentum over the root of its second moment, where the step is as long."""
TINY = 1e-23
SMALLEST, USUAL, LARGEST = 0.01, 0.1, 1.0
"""Root mean squares of a tensor: what smaller ones are taken for, where the step is `step_scale`, and
what larger ones are taken for."""


class Steer(NamedTuple):
    """What is written for each tensor.

    factors: of its step, the schedule included.
    slow, fresh: weights of the slow momentum and of the gradient beside the fast momentum.
    """

    factors: Float[Tensor, " tensors"]
    slow: Float[Tensor, " tensors"]
    fresh: Float[Tensor, " tensors"]


class Steering(nn.Module):
    """log factor = log schedule + w . logs + out(h), with h two layers of tanh, mixed by a mean over tensors.

    The features of a tensor: fraction trained (9) and losses (9) as in VeLO (Metz et al., 2022, appendix B), and
    whether the length of the run is known; the share of each momentum's mean square in the second moment's (3), which
    tells signal from noise; running cosines of new gradients with the fast and the slow momentum (4), which turn
    negative when steps are too long; whether it is a vector; and the logarithms (5), which also act directly: its root
    mean square, inputs, outputs, the length of the run and, of a matrix, the fast momentum over the root of the second
    moment. Vectors have the last in their direction, as Adam's step has; without it matrices go on at full length
    where nothing is left but noise.

    It starts at the schedule (a warm-up over the first twentieth, then a cosine) times the root of the tensor's root
    mean square and nearly the root of a matrix's signal.

    Arguments:
        hidden_size: units of each layer.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.read = nn.Linear(NUM_FEATURES, hidden_size)
        self.think, self.mix = nn.Linear(hidden_size, hidden_size), nn.Linear(hidden_size, hidden_size, bias=False)
        self.write = nn.Linear(hidden_size, 3)
        self.exponents = nn.Parameter(torch.tensor(EXPONENTS))
        self.register_buffer("thresholds", torch.tensor(THRESHOLDS), persistent=False)
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)

    thresholds: Tensor

    def forward(
        self,
        vectors: Sequence[bool],
        measured: Float[Tensor, "tensors k"],
        recalled: Float[Tensor, "tensors r"],
        shared: dict[str, Tensor],
        step: Tensor,
    ) -> Steer:
        """Of every tensor, in order.

        Arguments:
            vectors: whether it is one.
            measured: their moments, see `l2o.rules.reference.moments`.
            recalled: see `recall`.
            shared: length of the run and averages of the loss.
        """
        dtype, total = self.read.weight.dtype, shared["total_steps"]
        measured, recalled = measured.to(dtype), recalled.to(dtype)
        known = total > 0
        fraction = fraction_trained(step, total).to(dtype)
        progress = torch.cat([fraction_features(fraction, self.thresholds), fraction.view(1)])
        run = torch.cat([torch.where(known, progress, 0.0), loss_features(shared).to(dtype), known.to(dtype).view(1)])
        sizes = 0.5 * (measured[:, 1] / USUAL**2).clamp((SMALLEST / USUAL) ** 2, (LARGEST / USUAL) ** 2).log()
        signal = 0.25 * (measured[:, 2:5].clamp(min=TINY).log() - measured[:, 33:34].clamp(min=TINY).log()).clamp(
            -8.0, 4.0
        )
        is_vector = measured.new_tensor(vectors)
        strength = torch.where(is_vector > 0, 0.0, USUAL_SIGNAL + 2.0 * signal[:, 0].clamp(max=0.0))
        logs = torch.stack([sizes, strength], dim=1)
        own = [signal, recalled[:, :NUM_COSINES], 0.5 * logs, is_vector.unsqueeze(1)]
        features = torch.cat([run.expand(len(vectors), -1), *own], dim=1)
        hidden = torch.tanh(self.read(features))
        hidden = torch.tanh(self.think(hidden) + self.mix(hidden.mean(dim=0)))
        out = self.write(hidden)
        log_factors = logs @ self.exponents + out[:, 0].clamp(-4.0, 4.0)
        return Steer(schedule(fraction, total.to(dtype), step) * log_factors.exp(), out[:, 1], out[:, 2])


def schedule(fraction: Float[Tensor, ""], total: Float[Tensor, ""], step: Tensor) -> Float[Tensor, ""]:
    """Warm-up over a twentieth of a run, then a cosine to a hundredth; if the length is unknown, 50 steps and 1."""
    known = total > 0
    warmup = torch.where(known, WARMUP * total, 50.0).clamp(min=1.0)
    rise = ((step.to(total.dtype) + 1.0) / warmup).clamp(max=1.0)
    fall = 0.01 + 0.495 * (1.0 + torch.cos(math.pi * fraction.clamp(max=1.0)))
    return rise * torch.where(known, fall, 1.0)


def recall(
    measured: Float[Tensor, "tensors k"], recalled: Float[Tensor, "tensors r"], rates: Float[Tensor, " 2"]
) -> Float[Tensor, "tensors r"]:
    """Running averages of the cosines between each new gradient and the fast and slow momentum before it (4), and the
    mean squares of the momenta (2), by which the next cosines are reckoned without another look at any coordinate.

    m <- m + r (g - m) gives <m, g> = (|m'|^2 - (1 - r)^2 |m|^2 - r^2 |g|^2) / (2 r (1 - r)).

    Arguments:
        measured: moments after the gradient.
        recalled: what this function returned a step before; zeros at first.
        rates: of the fast and the slow momentum.
    """
    r = rates.to(recalled.dtype)
    before, after, squared = (
        recalled[:, NUM_COSINES:],
        measured[:, 2:4].to(recalled.dtype),
        measured[:, :1].to(recalled.dtype),
    )
    products = (after - (1 - r).square() * before - r.square() * squared) / (2 * r * (1 - r))
    scale = torch.rsqrt(before.clamp(min=TINY)) * torch.rsqrt(squared.clamp(min=TINY))
    now = (products * scale).clamp(-1.0, 1.0)
    now = torch.where(before > 0, now, 0.0).repeat(1, len(COSINE_RATES))
    pace = recalled.new_tensor(COSINE_RATES).repeat_interleave(2)
    return torch.cat([torch.lerp(recalled[:, :NUM_COSINES], now, pace), after], dim=1)

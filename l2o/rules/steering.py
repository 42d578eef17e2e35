"""A network over tensors: from how training goes to how far each tensor moves, and how far back it looks."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from l2o.rules.features import fraction_features
from l2o.rules.loss_features import NUM_LOSS_FEATURES, loss_features
from l2o.types import Params

THRESHOLDS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)
COSINE_RATES = (0.1, 0.01)
NUM_COSINES = 2 * len(COSINE_RATES)
NUM_LOGS = 4
"""Logarithms that act on the step directly: size of the tensor, inputs, outputs, length of the run."""
NUM_FEATURES = len(THRESHOLDS) + 1 + NUM_LOSS_FEATURES + 1 + 3 + NUM_COSINES + NUM_LOGS + 1
WARMUP = 0.05
SMALLEST, USUAL = 0.01, 0.1
"""Root mean squares of a tensor: what smaller ones are taken for, and where the step is `step_scale`."""


class Steer(NamedTuple):
    """What is written for each tensor.

    factors: of its step, the schedule included.
    slow, fresh: weights of the slow momentum and of the gradient beside the fast momentum.
    """

    factors: Float[Tensor, " tensors"]
    slow: Float[Tensor, " tensors"]
    fresh: Float[Tensor, " tensors"]


class Steering(nn.Module):
    """log factor = log schedule + w . logs + out(h), h two layers of tanh over 31 features, mixed by a mean over tensors.

    The features of a tensor: fraction trained (9) and losses (9) as in VeLO (Metz et al., 2022, appendix B); the share
    of each momentum's mean square in the second moment's (3), which tells signal from noise; running cosines of new
    gradients with the fast and the slow momentum (4), which turn negative when steps are too long; logarithms of its
    root mean square, inputs, outputs and of the run's length (4); whether it is a vector, and whether the length is
    known (2). It starts at the schedule (a warm-up over the first twentieth, then a cosine to zero) times the square
    root of the tensor's root mean square.

    Arguments:
        hidden_size: units of each layer.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.read = nn.Linear(NUM_FEATURES, hidden_size)
        self.think, self.mix = nn.Linear(hidden_size, hidden_size), nn.Linear(hidden_size, hidden_size, bias=False)
        self.write = nn.Linear(hidden_size, 3)
        self.exponents = nn.Parameter(torch.tensor([0.5] + [0.0] * (NUM_LOGS - 1)))
        self.register_buffer("thresholds", torch.tensor(THRESHOLDS), persistent=False)
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)

    thresholds: Tensor

    def forward(
        self,
        params: Params,
        averages: dict[str, tuple[Tensor, Tensor]],
        slots: dict[str, dict[str, Tensor]],
        shared: dict[str, Tensor],
        step: Tensor,
    ) -> Steer:
        """Of every tensor, in order.

        Arguments:
            averages: momenta (3, *p) and second moment of each.
            slots: of each, with `cosines`.
            shared: length of the run and averages of the loss.
        """
        dtype, total = self.read.weight.dtype, shared["total_steps"]
        known = total > 0
        fraction = torch.where(known, step.to(total.dtype) / total.clamp(min=1.0), 0.0).to(dtype)
        run = torch.cat([fraction_features(fraction, self.thresholds), fraction.view(1)])
        run = torch.cat([torch.where(known, run, 0.0), loss_features(shared).to(dtype), known.to(dtype).view(1)])
        length = torch.where(known, (total.clamp(min=1.0) / 1000.0).log(), 0.0).to(dtype)
        logs = torch.stack([self._logs(p, length) for p in params.values()])
        signs = torch.stack([_shares(*averages[name]).to(dtype) for name in params])
        turned = torch.stack([slots[name]["cosines"].to(dtype) for name in params])
        flat = logs.new_tensor([[float(p.ndim < 2)] for p in params.values()])
        features = torch.cat([run.expand(len(params), -1), signs, turned, 0.5 * logs, flat], dim=1)
        hidden = torch.tanh(self.read(features))
        hidden = torch.tanh(self.think(hidden) + self.mix(hidden.mean(dim=0)))
        out = self.write(hidden)
        log_factor = logs @ self.exponents.to(dtype) + out[:, 0].clamp(-4.0, 4.0)
        return Steer(schedule(fraction, total.to(dtype), step) * log_factor.exp(), out[:, 1], out[:, 2])

    def _logs(self, p: Tensor, length: Tensor) -> Float[Tensor, " logs"]:
        size = p.square().mean().sqrt().clamp(min=SMALLEST).to(length.dtype) / USUAL
        outputs = p.shape[0] if p.ndim >= 2 else 1
        inputs = p.numel() // outputs
        shape = length.new_tensor([math.log(inputs / 32.0), math.log(outputs / 32.0) if p.ndim >= 2 else 0.0])
        return torch.cat([size.log().view(1), shape, length.view(1)])


def schedule(fraction: Float[Tensor, ""], total: Float[Tensor, ""], step: Tensor) -> Float[Tensor, ""]:
    """Linear warm-up over the first twentieth of a run, then a cosine to zero; 50 steps of warm-up, where none is known."""
    known = total > 0
    warmup = torch.where(known, WARMUP * total, 50.0).clamp(min=1.0)
    rise = ((step.to(total.dtype) + 1.0) / warmup).clamp(max=1.0)
    fall = 0.01 + 0.495 * (1.0 + torch.cos(math.pi * fraction.clamp(max=1.0)))
    return rise * torch.where(known, fall, 1.0)


def cosines(grad: Float[Tensor, "*p"], slot: dict[str, Tensor]) -> Float[Tensor, " c"]:
    """Running averages of the cosines between new gradients and the fast and the slow momentum before them."""
    momenta = slot["momenta"][:2].to(grad.dtype).flatten(1)
    flat = grad.flatten()
    norms = (momenta.square().sum(dim=1) * flat.square().sum() + 1e-30).sqrt()
    now = (momenta @ flat / norms).repeat(len(COSINE_RATES))
    rates = grad.new_tensor(COSINE_RATES).repeat_interleave(2)
    return torch.lerp(slot["cosines"], now, rates)


def _shares(momenta: Float[Tensor, "3 *p"], second: Float[Tensor, "*p"]) -> Float[Tensor, " 3"]:
    """log of the mean square of each momentum over that of the gradients, a quarter of it, within (-2, 1)."""
    squares = momenta.flatten(1).square().mean(dim=1)
    return 0.25 * torch.log((squares + 1e-30) / (second.mean() + 1e-30)).clamp(-8.0, 4.0)

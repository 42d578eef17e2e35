"""A network over tensors: from how training goes to how far each one moves, how far it looks back, what it forgets."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from l2o.rules.constants import numbers
from l2o.rules.features import fraction_features, fraction_trained
from l2o.rules.loss_features import NUM_LOSS_FEATURES, loss_features

THRESHOLDS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)
COSINE_RATES = (0.1, 0.01)
NUM_COSINES = 2 * len(COSINE_RATES)
NUM_RECALLED = NUM_COSINES + 6
BARE = NUM_COSINES + 2
"""Where in what is recalled the share of rows without a gradient stands."""
EXPONENTS = (0.5, 0.25, 0.4)
"""Of what acts on a step directly: size of the tensor at the start, its growth since, signal of a matrix."""
SMALLER, LARGER = 1.0, 0.5
"""Exponents of the size that most matrices have, where it is below the usual one, and above."""
NUM_FEATURES = len(THRESHOLDS) + 1 + NUM_LOSS_FEATURES + 1 + 3 + NUM_COSINES + len(EXPONENTS) + 3
WARMUP = 0.05
DECAY = 0.3
"""A matrix that nothing moves is exp(-DECAY) times itself after a run."""
USUAL_LENGTH, UNKNOWN_LENGTH = 200.0, 10_000.0
"""Of a run whose steps are as long, what shorter ones are taken for; and one that is not known."""
USUAL_SIGNAL = 1.5
"""Minus the logarithm of a matrix's fast momentum over the root of its second moment, where the step is as long."""
USUAL_MATRIX, USUAL_VECTOR = 3**-0.5, 0.1
"""Root mean square where a step is as long: of a matrix, times the root of its inputs, as torch draws them."""
USUAL_INPUTS, FEWEST_INPUTS = 64.0, 16.0
"""Columns of a matrix whose step is as long; what fewer ones are taken for."""
NEGLIGIBLE = 0.003
"""Gradients that have fallen to this part of their largest make steps half as long: Adam's epsilon without its unit."""
TINY = 1e-23


class Steer(NamedTuple):
    """What is written for each tensor.

    factors: of its step, the schedule included.
    slow, fresh: weights of the slow momentum and of the gradient beside the fast momentum.
    decays: the parts that are taken away from it, the schedule included; of matrices.
    """

    factors: Float[Tensor, " tensors"]
    slow: Float[Tensor, " tensors"]
    fresh: Float[Tensor, " tensors"]
    decays: Float[Tensor, " tensors"]


class Steering(nn.Module):
    """log factor = log (schedule * unit * width * rest) + w . logs + out(h), h two layers of tanh, mixed over tensors.

    What is fixed: the schedule (a warm-up over the first twentieth, then a cosine, times the length of the run to the
    power -1/4, as the best steps of networks that trained for 125, 500 and 2000 steps were); unit, the size of most
    matrices now beside that of torch's at the start (in proportion if they are smaller, as a network in other units
    needs, by its root if they are larger); width, a matrix's inputs to the power -1/2, so that its step is as large
    beside its usual initial weights however wide it is; and rest, which ends the steps of a tensor that has learned all
    there is, where gradients are a small part of their largest.

    What acts directly, to learned powers: a tensor's root mean square at the start beside that of most matrices, its
    growth since, and of a matrix the fast momentum over the root of the second moment. Vectors have the latter in their
    direction, as Adam's step has; without it matrices would go on at full length where nothing is left but noise.

    Features of h: fraction trained (9) and losses (9) as in VeLO (Metz et al., 2022, appendix B), and whether the
    length of the run is known; the share of each momentum's mean square in the second moment's (3), which tells signal
    from noise; running cosines of new gradients with the fast and the slow momentum (4), which turn negative when
    steps are too long; the logarithms (3) above, those of unit and rest; whether it is a vector. None of them is the
    width of a layer or the number of steps: both are a hundred times those of meta-training in use.

    Arguments:
        hidden_size: units of each layer.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.read = nn.Linear(NUM_FEATURES, hidden_size)
        self.think, self.mix = nn.Linear(hidden_size, hidden_size), nn.Linear(hidden_size, hidden_size, bias=False)
        self.write = nn.Linear(hidden_size, 4)
        self.exponents = nn.Parameter(torch.tensor(EXPONENTS))
        self.register_buffer("thresholds", torch.tensor(THRESHOLDS), persistent=False)
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)

    thresholds: Tensor

    def forward(
        self,
        inputs: Float[Tensor, " tensors"],
        measured: Float[Tensor, "tensors k"],
        recalled: Float[Tensor, "tensors r"],
        shared: dict[str, Tensor],
        step: Tensor,
    ) -> Steer:
        """Of every tensor, in order.

        Arguments:
            inputs: columns of a matrix, 0 of what is moved as vectors are.
            measured: their moments, see `l2o.rules.reference.moments`.
            recalled: see `recall`.
            shared: length of the run and averages of the loss.
        """
        dtype, total = self.read.weight.dtype, shared["total_steps"].to(self.read.weight.dtype)
        measured, recalled = measured.to(dtype), recalled.to(dtype)
        vector = (inputs == 0).to(dtype)
        fan_in = inputs.to(dtype).clamp(min=1.0)
        fraction = fraction_trained(step, total)
        usual = torch.where(vector > 0, USUAL_VECTOR, USUAL_MATRIX * fan_in.rsqrt())
        most, own, growth = _sizes(measured[:, 1], recalled[:, -1], usual, vector)
        signal = 0.25 * (measured[:, 2:5].clamp(min=TINY).log() - measured[:, 33:34].clamp(min=TINY).log()).clamp(
            -8.0, 4.0
        )
        strength = torch.where(vector > 0, 0.0, USUAL_SIGNAL + 2.0 * signal[:, 0].clamp(max=0.0))
        logs = torch.stack([own, growth, strength], dim=1)
        left = (recalled[:, -2].clamp(min=TINY) / recalled[:, -3].clamp(min=TINY)).sqrt()
        told = torch.stack([0.5 * most.expand_as(own), 0.25 * left.clamp(min=1e-6).log(), vector], dim=1)
        run = _run_features(fraction, total, shared, self.thresholds).expand(len(fan_in), -1)
        hidden = torch.tanh(self.read(torch.cat([run, signal, recalled[:, :NUM_COSINES], 0.5 * logs, told], dim=1)))
        hidden = torch.tanh(self.think(hidden) + self.mix(hidden.mean(dim=0)))
        out = self.write(hidden)
        pace = schedule(fraction, total, step)
        length = torch.where(total > 0, total.clamp(min=USUAL_LENGTH), UNKNOWN_LENGTH)
        width = torch.where(vector > 0, 1.0, (USUAL_INPUTS / fan_in.clamp(min=FEWEST_INPUTS)).sqrt())
        unit = (SMALLER * most.clamp(max=0.0) + LARGER * most.clamp(min=0.0)).exp()
        rest = left / (left + NEGLIGIBLE)
        fixed = pace * (USUAL_LENGTH / length).pow(0.25) * unit * width * rest
        factors = fixed * (logs @ self.exponents + out[:, 0].clamp(-4.0, 4.0)).exp()
        decays = torch.where(vector > 0, 0.0, 2.0 * DECAY / length * pace * out[:, 3].clamp(-4.0, 4.0).exp())
        return Steer(factors, out[:, 1], out[:, 2], decays)


def _sizes(
    now: Float[Tensor, " tensors"],
    began: Float[Tensor, " tensors"],
    usual: Float[Tensor, " tensors"],
    vector: Float[Tensor, " tensors"],
) -> tuple[Float[Tensor, ""], Float[Tensor, " tensors"], Float[Tensor, " tensors"]]:
    """Logarithms: of the size now over the usual one, in most matrices (the median, 0 if there is none); of each
    tensor's at the start beside theirs, by half for vectors, which begin anywhere; and of its size now over that at the
    start. What began at zero counts as usual.

    Arguments:
        now, began: mean squares.
        usual: root mean squares.
        vector: 1 for a vector, 0 for a matrix.
    """
    zero = began <= (1e-6 * usual).square()
    logs = 0.5 * (torch.stack([now, began]).clamp(min=TINY) / usual.square()).clamp(1e-4, 1e4).log()
    most, first = torch.where(zero | (vector > 0), torch.nan, logs).nanmedian(dim=1).values.nan_to_num(0.0)
    own = torch.where(zero, 0.0, (logs[1] - first).clamp(-3.0, 3.0) * torch.where(vector > 0, 0.5, 1.0))
    growth = 0.5 * (now.clamp(min=TINY) / torch.where(zero, usual.square(), began)).clamp(0.01, 100.0).log()
    return most, own, growth


def _run_features(
    fraction: Float[Tensor, ""], total: Float[Tensor, ""], shared: dict[str, Tensor], thresholds: Float[Tensor, " k"]
) -> Float[Tensor, " f"]:
    known = total > 0
    progress = torch.cat([fraction_features(fraction, thresholds), fraction.view(1)])
    losses = loss_features(shared).to(fraction.dtype)
    return torch.cat([torch.where(known, progress, 0.0), losses, known.to(fraction.dtype).view(1)])


def schedule(fraction: Float[Tensor, ""], total: Float[Tensor, ""], step: Tensor) -> Float[Tensor, ""]:
    """Warm-up over a twentieth of a run, then a cosine to a hundredth; if the length is unknown, 50 steps and 1."""
    known = total > 0
    warmup = torch.where(known, WARMUP * total, 50.0).clamp(min=1.0)
    rise = ((step.to(total.dtype) + 1.0) / warmup).clamp(max=1.0)
    fall = 0.01 + 0.495 * (1.0 + torch.cos(math.pi * fraction.clamp(max=1.0)))
    return rise * torch.where(known, fall, 1.0)


def recall(
    measured: Float[Tensor, "tensors k"],
    recalled: Float[Tensor, "tensors r"],
    second: Float[Tensor, " tensors"],
    rates: Float[Tensor, " 2"],
    bare: Float[Tensor, " tensors"],
    first: Bool[Tensor, " tensors"],
) -> Float[Tensor, "tensors r"]:
    """Running averages of the cosines between each new gradient and the fast and slow momentum before it (4), the mean
    squares of the momenta (2), by which the next cosines are reckoned without another look at any coordinate, a running
    average of the share of rows without a gradient, the largest second moment yet, with the present one (2), and the
    mean square of the tensor before its first step.

    m <- m + r (g - m) gives <m, g> = (|m'|^2 - (1 - r)^2 |m|^2 - r^2 |g|^2) / (2 r (1 - r)).

    Arguments:
        measured: moments after the gradient.
        recalled: what this function returned a step before; zeros at first.
        second: mean of the second moment, corrected for its start at zero.
        rates: of the fast and the slow momentum.
        bare: share of rows whose gradient is zero.
        first: whether this is the tensor's first gradient.
    """
    r = rates.to(recalled.dtype)
    before, after = recalled[:, NUM_COSINES : NUM_COSINES + 2], measured[:, 2:4].to(recalled.dtype)
    squared, second = measured[:, :1].to(recalled.dtype), second.to(recalled.dtype)
    products = (after - (1 - r).square() * before - r.square() * squared) / (2 * r * (1 - r))
    scale = torch.rsqrt(before.clamp(min=TINY)) * torch.rsqrt(squared.clamp(min=TINY))
    now = (products * scale).clamp(-1.0, 1.0)
    now = torch.where(before > 0, now, 0.0).repeat(1, len(COSINE_RATES))
    pace = numbers(COSINE_RATES, recalled).repeat_interleave(2, output_size=NUM_COSINES)
    largest = torch.maximum(recalled[:, -3], second)
    began = torch.where(first, measured[:, 1].to(recalled.dtype), recalled[:, -1])
    cosines = torch.lerp(recalled[:, :NUM_COSINES], now, pace)
    bare = torch.where(first, bare, torch.lerp(recalled[:, BARE], bare.to(recalled.dtype), COSINE_RATES[0]))
    return torch.cat([cosines, after, torch.stack([bare, largest, second, began], dim=1)], dim=1)

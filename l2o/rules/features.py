"""What learned rules remember and see of each coordinate: averages of its gradient, factored as in Adafactor.

Averages and features are stacked along a leading axis, (k, *p): three times faster on a CPU than a trailing one, and a
network applied to all coordinates is a product with the matrix (k, n). Metz et al. (2022,
https://arxiv.org/abs/2203.11860) describe the features, Shazeer and Stern (2018, https://arxiv.org/abs/1804.04235) the
factored second moments.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from l2o.rules.base import check, working

NUM_AVERAGES = (3, 1, 3)
"""Momenta, second moments and factored ones that the features are made of."""

NUM_FEATURES = 28
"""Features of a coordinate with three momenta, one second moment and three factored ones."""

NUM_EXTENDED_FEATURES = 30
"""The same with the clipped and the normalised gradient."""


def init_averages(p: Float[Tensor, "*p"], num_momenta: int = 3, num_factored: int = 3) -> dict[str, Tensor]:
    """Zero averages of one tensor: `momenta`, `second` (one) and factored second moments; 4 numbers a coordinate."""
    p = working(p)
    slot = {"momenta": p.new_zeros(num_momenta, *p.shape), "second": p.new_zeros(1, *p.shape)}
    dims = factored_dims(p.shape)
    if dims is None:
        return slot | {"diagonal": p.new_zeros(num_factored, *p.shape)}
    small, large = dims
    return slot | {
        "row": p.new_zeros(num_factored, *_without(p.shape, large)),
        "column": p.new_zeros(num_factored, *_without(p.shape, small)),
    }


def initial_rates(
    momentum_decays: Sequence[float], second_decays: Sequence[float], factored_decays: Sequence[float]
) -> Float[Tensor, " r"]:
    """1 - decay of every average in a row, checked; `split_rates` undoes the row."""
    check_decays(momentum_decays=momentum_decays, second_decays=second_decays, factored_decays=factored_decays)
    came = (len(momentum_decays), len(second_decays), len(factored_decays))
    check(came == NUM_AVERAGES, "the features need 3 momentum, 1 second and 3 factored decays", lengths=came)
    return 1.0 - torch.tensor([*momentum_decays, *second_decays, *factored_decays])


def split_rates(rates: Float[Tensor, " r"]) -> tuple[Tensor, ...]:
    """The rates of the momenta, of the second moment and of the factored ones, as `update_averages` takes them."""
    return rates.split(NUM_AVERAGES)


def update_averages(
    slot: dict[str, Tensor],
    grad: Float[Tensor, "*p"],
    momentum_rates: Float[Tensor, " a"],
    second_rates: Float[Tensor, " b"],
    factored_rates: Float[Tensor, " c"],
    *,
    eps_square: float = 0.0,
) -> dict[str, Tensor]:
    """One step of every average, x <- x + rate * (new - x); a rate is 1 - decay. Other entries of `slot` stay.

    Arguments:
        eps_square: added to the squares that `diagonal` averages.
    """
    square = grad.square()
    averages = {
        "momenta": _average(slot["momenta"], grad, momentum_rates),
        "second": _average(slot["second"], square, second_rates),
    }
    dims = factored_dims(grad.shape)
    if dims is None:
        square = square + eps_square if eps_square else square
        return slot | averages | {"diagonal": _average(slot["diagonal"], square, factored_rates)}
    small, large = dims
    averages["row"] = _average(slot["row"], square.mean(dim=large, keepdim=True), factored_rates)
    averages["column"] = _average(slot["column"], square.mean(dim=small, keepdim=True), factored_rates)
    return slot | averages


def stack_features(
    p: Float[Tensor, "*p"],
    grad: Float[Tensor, "*p"],
    slot: dict[str, Tensor],
    eps: float = 1e-6,
    extended: bool = False,
    eps_diagonal: float = 1e-6,
) -> Float[Tensor, " k *p"]:
    """All features of a tensor's coordinates, not yet normalised.

    With g the gradient, m the momenta (3), v the second moment, r = rsqrt(v + eps), R and C the row and column second
    moments (3 each) and f = sqrt(mean R / (R C)) the factored scale: g, p, m, v, m r, r, g f, R, C, 1/sqrt R,
    1/sqrt C, m f; extended by clip(g, -0.1, 0.1) and g r. Tensors of rank 0 and 1 have R = C, the plain average,
    and f = 1/sqrt(R + 1e-9) for the gradient, 1/sqrt(R + eps_diagonal) for the momenta.
    """
    m, v = slot["momenta"], slot["second"]
    r = torch.rsqrt(v + eps)
    row, column, grad_scale, scaled_momenta = _factored(slot, grad.shape, eps_diagonal)
    full = (row.shape[0], *grad.shape)
    groups = [grad.unsqueeze(0), p.unsqueeze(0), m, v, m * r, r, grad * grad_scale, row.expand(full)]
    groups += [column.expand(full), torch.rsqrt(row + 1e-8).expand(full), torch.rsqrt(column + 1e-8).expand(full)]
    groups.append(scaled_momenta)
    if extended:
        groups += [grad.clamp(-0.1, 0.1).unsqueeze(0), grad * r]
    return torch.cat(groups)


def rms_scale(features: Float[Tensor, " k *p"], eps: float) -> Float[Tensor, " k"]:
    """What each feature must be multiplied by to have unit second moment over the tensor."""
    return torch.rsqrt(features.reshape(features.shape[0], -1).square().mean(dim=1) + eps)


def has_moved(slot: dict[str, Tensor]) -> Tensor:
    """Where a coordinate has ever had a gradient: elsewhere a network's bias must not move it."""
    return slot["momenta"][-1] != 0


def time_features(step: Tensor, timescales: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """tanh(t / tau - 1) for each timescale tau, t the number of steps made before."""
    return torch.tanh(step.to(timescales.dtype) / timescales - 1.0)


def fraction_trained(step: Tensor, total_steps: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Steps made over the length of the run, 1 after it; 0 where that is not known (0)."""
    return torch.where(total_steps > 0, (step.to(total_steps.dtype) / total_steps.clamp(min=1.0)).clamp(max=1.0), 0.0)


def fraction_features(fraction: Float[Tensor, ""], thresholds: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """tanh(10 (f - threshold)): how far training is past each threshold, f from 0 to 1."""
    return torch.tanh(10.0 * (fraction - thresholds))


def bias_correction(rate: Float[Tensor, ""], count: Float[Tensor, " *n"]) -> Float[Tensor, " *n"]:
    """1 - (1 - rate)^count without cancellation, which costs float32 four digits at rate 0.001."""
    rate = rate.clamp(max=1.0 - torch.finfo(rate.dtype).eps)  # the derivative of log1p is infinite at -1
    return -torch.expm1(count * torch.log1p(-rate))


def safe_sqrt(x: Float[Tensor, "*p"]) -> Float[Tensor, "*p"]:
    """sqrt with finite first and second derivatives at 0; below about 1e-23 (float32) it is constant."""
    return x.clamp(min=torch.finfo(x.dtype).tiny ** 0.6).sqrt()


def bound(grad: Float[Tensor, "*p"]) -> Float[Tensor, "*p"]:
    """`grad` within a tenth of the square root of the largest number, so that its square is finite."""
    limit = 0.1 * torch.finfo(grad.dtype).max ** 0.5
    return grad.clamp(-limit, limit)


def factored_dims(shape: Sequence[int]) -> tuple[int, int] | None:
    """The second largest and the largest dimension (the later of equals is larger); None below rank 2."""
    if len(shape) < 2:
        return None
    *_, small, large = sorted(range(len(shape)), key=lambda dim: shape[dim])
    return small, large


def check_decays(**decays: Sequence[float]) -> None:
    """Every decay of an average must lie in [0, 1)."""
    for name, values in decays.items():
        holds = len(values) > 0 and all(0.0 <= decay < 1.0 for decay in values)
        check(holds, f"{name} must be one or more numbers in [0, 1), because they decay averages", **{name: values})


def _factored(
    slot: dict[str, Tensor], shape: Sequence[int], eps_diagonal: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Row and column second moments, the scale that they give to the gradient, and the momenta so scaled."""
    dims, m = factored_dims(shape), slot["momenta"]
    if dims is None:
        v = slot["diagonal"]
        return v, v, torch.rsqrt(v + 1e-9), m * torch.rsqrt(v + eps_diagonal) if eps_diagonal else _over_root(m, v)
    row, column = slot["row"], slot["column"]
    relative = row / (row.mean(dim=1 + dims[0], keepdim=True) + 1e-9)
    scale = torch.rsqrt(relative.clamp(min=1e-9)) * torch.rsqrt(column.clamp(min=1e-9))
    return row, column, scale, m * scale


def _over_root(m: Float[Tensor, " k *p"], v: Float[Tensor, " k *p"]) -> Float[Tensor, " k *p"]:
    """m / sqrt(v), v > 0; a constant to derivatives where v is below 1e-14 (float32), where they would overflow."""
    smooth = v > torch.finfo(v.dtype).tiny ** 0.375
    # not the derivative times zero there: it would be infinite
    return torch.where(smooth, m * torch.rsqrt(torch.where(smooth, v, 1.0)), (m * torch.rsqrt(v)).detach())


def _average(average: Tensor, x: Tensor, rates: Tensor) -> Tensor:
    return torch.lerp(average, x, rates.to(x.dtype).view(-1, *(1,) * x.ndim))


def _without(shape: Sequence[int], dim: int) -> list[int]:
    return [1 if i == dim else size for i, size in enumerate(shape)]

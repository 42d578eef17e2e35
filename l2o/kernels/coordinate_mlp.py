"""Averages of every coordinate, and the network that reads them, on lists of tensors: the door to coordinate_mlp.cpp.

All tensors are float32, contiguous and on the CPU; momenta and second moments may be bfloat16, all of a call's. With
`lanes`, each has a leading axis of that length and every lane its own everything; without (0), none has.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2o.kernels.build import library
from l2o.tracing import constant

MAX_HIDDEN = 32
MAX_LAYERS = 4
NUM_MOMENTS = 35
"""Mean squares of the 30 features, means of the three momenta and of the second moment, share of coordinates that have
ever had a gradient."""


class Network(NamedTuple):
    """What is applied to the features: sizes of the MLP, and what becomes of its outputs.

    hidden, num_layers, num_outputs: of the MLP; with two outputs (d, m) the step is d exp(magnitude_scale m).
    extended: 30 features, not 28.
    residual: add the sixth feature, normalised, to the step.
    normalize: scale a tensor's step to unit root mean square over the coordinates that may move.
    eps: added to mean squares before their roots.
    eps_second: added to second moments before theirs.
    max_gradient: bound on gradients.
    magnitude_scale: see above.
    size: factor of the step at last.
    masked: coordinates that have never had a gradient stay.
    eps_diagonal: added to plain averages of squares (rank 0 and 1) before the root that scales the momenta.
    eps_square: added to squared gradients before their plain averages (rank 0 and 1).
    """

    hidden: int
    num_layers: int
    num_outputs: int
    extended: bool
    residual: bool
    normalize: bool
    eps: float
    eps_second: float
    max_gradient: float
    magnitude_scale: float
    size: float
    masked: bool = True
    eps_diagonal: float = 1e-6
    eps_square: float = 0.0


class _Tensor(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in ["p", "g", "m", "v", "row", "column", "u", "new_m", "new_v", "new_row", "new_column"]
        ),
        *((name, ctypes.c_int64) for name in ["a", "s1", "b", "s2", "c", "row_is_outer"]),
    ]


class _Plan(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ["num_lanes", "num_tensors", "hidden", "num_layers", "num_outputs"]),
        *((name, ctypes.c_int64) for name in ["measure", "extended", "residual", "normalize", "masked"]),
        ("rates", ctypes.c_void_p),
        ("layers", ctypes.c_void_p),
        ("layers_lane", ctypes.c_int64),
        ("layers_tensor", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ["sizes", "moments"]),
        *((name, ctypes.c_float) for name in ["eps_second", "eps_rms", "max_gradient", "magnitude_scale", "size"]),
        *((name, ctypes.c_float) for name in ["eps_diagonal", "eps_square"]),
        ("seed", ctypes.c_int64),
    ]


def padded(hidden: int) -> int:
    """The number of hidden units that kernels are built for."""
    return next(size for size in (4, 8, 16, 32) if hidden <= size)


@constant
def available(hidden: int, num_layers: int, half: bool = False) -> bool:
    """Whether there is a kernel for such a network; builds it, where it is not built yet.

    Arguments:
        half: for momenta and second moments in bfloat16, which can only be read, and brought up to date in place.
    """
    return hidden <= MAX_HIDDEN and num_layers <= MAX_LAYERS and _library(hidden, half) is not None


class Averages(NamedTuple):
    """What is remembered of a tensor: `row` is the plain average where `column` is None (rank 0 and 1)."""

    momenta: Tensor
    second: Tensor
    row: Tensor
    column: Tensor | None


def measure(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    averages: Sequence[Averages],
    rates: Tensor,
    network: Network,
    lanes: int = 0,
    later: bool = False,
) -> tuple[list[Averages], Tensor]:
    """The averages after one more gradient, and the moments of all tensors: (tensors, NUM_MOMENTS).

    Arguments:
        later: leave momenta and second moments as they are, for `move` to reckon with and `advance` to bring up to
            date.
    """
    make = unwritten_statistics if later else unwritten
    new = [make(old) for old in averages]
    moments = rates.new_empty(*rates.shape[:-1], len(params), NUM_MOMENTS)
    plan = _plan(params, network, moments, lanes)
    plan.measure, plan.rates = 1, rates.data_ptr()
    run = zip(params, grads, averages, new, strict=True)
    tensors = [_tensor(p, g, old, lanes, after=made, later=later) for p, g, old, made in run]
    _kernel(network.hidden, averages).coordinate_mlp(ctypes.byref(plan), _table(tensors))
    return new, moments


def move(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    averages: Sequence[Averages],
    moments: Tensor,
    layers: Tensor,
    sizes: Tensor | None,
    network: Network,
    lanes: int = 0,
    rates: Tensor | None = None,
) -> list[Tensor]:
    """The step of every tensor.

    Arguments:
        averages, moments: as `measure` left them.
        layers: weight and bias of each layer in a row: (w), or (tensors, w) for networks of their own.
        sizes: (tensors), a factor of each tensor's step.
        rates: given where `measure` left work for later.
    """
    updates = [torch.empty_like(p) for p in params]
    plan = _plan(params, network, moments, lanes)
    plan.layers = layers.data_ptr()
    lead = int(lanes > 0)
    plan.layers_lane = layers.stride(0) if lead else 0
    plan.layers_tensor = layers.stride(lead) if layers.ndim == 2 + lead else 0
    plan.sizes, plan.rates = (None if x is None else x.data_ptr() for x in (sizes, rates))
    run = zip(params, grads, averages, updates, strict=True)
    tensors = [_tensor(p, g, old, lanes, u) for p, g, old, u in run]
    _kernel(network.hidden, averages).coordinate_mlp(ctypes.byref(plan), _table(tensors))
    return updates


def advance(
    grads: Sequence[Tensor], averages: Sequence[Averages], rates: Tensor, network: Network, seed: int = 0
) -> None:
    """Bring momenta and second moments up to date in place, which `measure` left for later.

    Arguments:
        seed: of the rounding, where they are kept in bfloat16.
    """
    plan = _Plan(num_tensors=len(grads), rates=rates.data_ptr(), max_gradient=network.max_gradient, seed=seed)
    tensors = [_tensor(g, g, old, 0, after=old) for g, old in zip(grads, averages, strict=True)]
    _kernel(network.hidden, averages).coordinate_mlp_advance(ctypes.byref(plan), _table(tensors))


def unwritten(old: Averages) -> Averages:
    """Memory for new averages."""
    return unwritten_statistics(old)._replace(
        momenta=torch.empty_like(old.momenta), second=torch.empty_like(old.second)
    )


def unwritten_statistics(old: Averages) -> Averages:
    """Memory for new factored averages, beside the old momenta and second moments."""
    column = None if old.column is None else torch.empty_like(old.column)
    return old._replace(row=torch.empty_like(old.row), column=column)


@lru_cache(maxsize=4096)
def geometry(shape: tuple[int, ...]) -> tuple[int, int, int, int, int, int]:
    """(a, s1, b, s2, c, row_is_outer): a shape with its two factored dimensions s1 and s2 in memory order.

    The second largest dimension and the largest one are factored, the later of equals counting as larger; the row
    average is indexed by the smaller one.
    """
    if len(shape) < 2:
        return (1, 1, 1, shape[0] if shape else 1, 1, 0)
    *_, small, large = sorted(range(len(shape)), key=lambda dim: shape[dim])
    first, last = sorted((small, large))
    a, b, c = (_product(shape[part]) for part in (slice(first), slice(first + 1, last), slice(last + 1, None)))
    return (a, shape[first], b, shape[last], c, int(small == first))


def _product(sizes: Sequence[int]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product


def _plan(params: Sequence[Tensor], network: Network, moments: Tensor, lanes: int) -> _Plan:
    plan = _Plan(max(lanes, 1), len(params), network.hidden, network.num_layers, network.num_outputs)
    plan.extended, plan.residual, plan.normalize = network.extended, network.residual, network.normalize
    plan.eps_rms, plan.eps_second, plan.size = network.eps, network.eps_second, network.size
    plan.max_gradient, plan.magnitude_scale = network.max_gradient, network.magnitude_scale
    plan.masked, plan.eps_diagonal, plan.eps_square = network.masked, network.eps_diagonal, network.eps_square
    plan.moments = moments.data_ptr()
    return plan


def _tensor(
    p: Tensor,
    grad: Tensor,
    old: Averages,
    lanes: int,
    u: Tensor | None = None,
    after: Averages | None = None,
    later: bool = False,
) -> tuple[int | None, ...]:
    made = [None] * 4 if after is None else [None if x is None else x.data_ptr() for x in after]
    if later:
        made[:2] = None, None
    before = (None if x is None else x.data_ptr() for x in old)
    step = None if u is None else u.data_ptr()
    return (p.data_ptr(), grad.data_ptr(), *before, step, *made, *geometry(tuple(p.shape[1:] if lanes else p.shape)))


def _table(tensors: Sequence[Any]) -> ctypes.Array[_Tensor]:
    return (_Tensor * len(tensors))(*tensors)


def _kernel(hidden: int, averages: Sequence[Averages]) -> ctypes.CDLL:
    kernel = _library(hidden, averages[0].momenta.dtype == torch.bfloat16)
    assert kernel is not None
    return kernel


def _library(hidden: int, half: bool) -> ctypes.CDLL | None:
    return library("coordinate_mlp", HIDDEN=padded(hidden), HALF=int(half))

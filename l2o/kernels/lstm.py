"""One step of a small LSTM for every coordinate of a list of tensors, and the way back: the door to lstm.cpp.

All tensors are float32, contiguous and on the CPU. With `lanes`, each has a leading axis of that length; weights may
have stride 0 there, where lanes share them. Without (0), none has.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from l2o.kernels.build import library
from l2o.tracing import constant

SIZES = (4, 8, 16, 20, 32)
"""Numbers of hidden units that kernels are built for."""
MAX_LAYERS = 4
MAX_P = 80.0
"""e^p and e^-p are normal numbers up to here."""


class Form(NamedTuple):
    """What is around the LSTM.

    squash: the output goes through a tanh.
    scale: factor of the step at last.
    p: exponent range of the logarithm, where gradients are read through it.
    """

    squash: bool
    scale: float
    p: float


class Theta(NamedTuple):
    """Weights and biases of every layer, and what makes a step of the last one's output."""

    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    output: Tensor


class Given(NamedTuple):
    """What a step is made of: gradients, features (2, *p) where they are not the gradients' logarithms, states."""

    grads: Sequence[Tensor]
    features: Sequence[Tensor]
    hidden: Sequence[Tensor]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ["grad", "features", "hidden", "step", "new_hidden"]),
        *((name, ctypes.c_void_p) for name in ["d_step", "d_new_hidden", "d_input", "d_hidden"]),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ["weight", "bias"]),
        *((name, ctypes.c_int64) for name in ["weight_lane", "bias_lane"]),
        *((name, ctypes.c_void_p) for name in ["d_weight", "d_bias"]),
    ]


class _Plan(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ["num_lanes", "num_tensors", "num_layers", "hidden"]),
        *((name, ctypes.c_int64) for name in ["back", "wants_input", "features", "squash"]),
        ("output", ctypes.c_void_p),
        ("output_lane", ctypes.c_int64),
        ("d_output", ctypes.c_void_p),
        *((name, ctypes.c_float) for name in ["scale", "p", "smallest", "inverse"]),
    ]


@constant
def available(hidden: int, num_layers: int, p: float) -> bool:
    """Whether there is a kernel for such a network; builds it, where it is not built yet."""
    fits = hidden <= SIZES[-1] and num_layers <= MAX_LAYERS and p <= MAX_P
    return fits and library("lstm", HIDDEN=_padded(hidden)) is not None


def step(given: Given, theta: Theta, form: Form, lanes: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """The step of every coordinate that has a gradient, and the next states."""
    steps, hidden = [torch.empty_like(x) for x in given.grads], [torch.empty_like(x) for x in given.hidden]
    plan, layers = _plan(given, theta, form, lanes), _layers(theta, None, lanes)
    _run(plan, layers, given, lanes, step=steps, new_hidden=hidden)
    return steps, hidden


def back(
    d_steps: Sequence[Tensor | None],
    d_new_hidden: Sequence[Tensor | None],
    given: Given,
    theta: Theta,
    form: Form,
    lanes: int = 0,
    wants_input: bool = False,
) -> tuple[list[Tensor], list[Tensor], Theta]:
    """Derivatives with respect to inputs (gradients or features; none unless wanted), states and theta.

    Arguments:
        d_steps, d_new_hidden: derivatives with respect to what `step` returned, None where they are zero.
    """
    d_inputs = [torch.empty_like(x) for x in given.features or given.grads] if wants_input else []
    d_hidden = [torch.empty_like(x) for x in given.hidden]
    d_theta = Theta([_dense(x) for x in theta.weights], [_dense(x) for x in theta.biases], _dense(theta.output))
    plan, layers = _plan(given, theta, form, lanes), _layers(theta, d_theta, lanes)
    plan.back, plan.wants_input, plan.d_output = 1, wants_input, d_theta.output.data_ptr()
    fields = {"d_step": d_steps, "d_new_hidden": d_new_hidden, "d_input": d_inputs, "d_hidden": d_hidden}
    _run(plan, layers, given, lanes, **fields)
    return d_inputs, d_hidden, d_theta


def _dense(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _plan(given: Given, theta: Theta, form: Form, lanes: int) -> _Plan:
    plan = _Plan(max(lanes, 1), len(given.grads), len(theta.weights), theta.output.shape[-1])
    plan.features, plan.squash, plan.scale, plan.p = bool(given.features), form.squash, form.scale, form.p
    plan.smallest, plan.inverse = math.exp(-form.p), math.exp(form.p)
    plan.output, plan.output_lane = theta.output.data_ptr(), _lane(theta.output, lanes)
    return plan


def _layers(theta: Theta, derivatives: Theta | None, lanes: int) -> list[_Layer]:
    layers = [
        _Layer(w.data_ptr(), b.data_ptr(), _lane(w, lanes), _lane(b, lanes))
        for w, b in zip(theta.weights, theta.biases, strict=True)
    ]
    if derivatives is not None:
        for layer, w, b in zip(layers, derivatives.weights, derivatives.biases, strict=True):
            layer.d_weight, layer.d_bias = w.data_ptr(), b.data_ptr()
    return layers


def _lane(x: Tensor, lanes: int) -> int:
    return x.stride(0) if lanes else 0


def _run(plan: _Plan, layers: Sequence[_Layer], given: Given, lanes: int, **fields: Sequence[Tensor | None]) -> None:
    per_lane = max(lanes, 1)
    tensors = (_Tensor * len(given.grads))()
    fields |= {"grad": given.grads, "features": given.features, "hidden": given.hidden}
    for tensor, grad in zip(tensors, given.grads, strict=True):
        tensor.size = grad.numel() // per_lane
    for name, values in fields.items():
        for tensor, x in zip(tensors, values, strict=False):  # features or derivatives may be left out
            setattr(tensor, name, None if x is None else x.data_ptr())
    kernel = library("lstm", HIDDEN=_padded(plan.hidden))
    assert kernel is not None
    kernel.lstm(ctypes.byref(plan), tensors, (_Layer * len(layers))(*layers))


def _padded(hidden: int) -> int:
    return next(size for size in SIZES if hidden <= size)

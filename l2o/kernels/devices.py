"""Which kernels of the per-coordinate rules serve a device: C++ for the CPU, Triton for CUDA, imported when needed."""

from __future__ import annotations

import importlib
import warnings
from functools import cache
from typing import Any

import torch

from l2o.kernels import coordinate_mlp
from l2o.kernels.coordinate_mlp import MAX_HIDDEN, MAX_LAYERS, Averages, Network
from l2o.tracing import constant


def kernels_for(device: torch.device) -> Any:
    """The module with `measure`, `move` and `advance` for tensors on a device."""
    if device.type == "cpu":
        return coordinate_mlp
    return importlib.import_module("l2o.kernels.coordinate_mlp_triton")


@constant
def available(device: torch.device, hidden: int, num_layers: int, half: bool = False) -> bool:
    """Whether there is a kernel for such a network on a device; see `coordinate_mlp.available`."""
    if device.type == "cpu":
        return coordinate_mlp.available(hidden, num_layers, half)
    fits = device.type == "cuda" and hidden <= MAX_HIDDEN and num_layers <= MAX_LAYERS
    return fits and _triton_works(device, hidden, num_layers)


@cache
def _triton_works(device: torch.device, hidden: int, num_layers: int) -> bool:
    """Whether the kernels run on the smallest tensors; one warning if not: Triton needs a compiler, and a known GPU."""
    network = Network(hidden, num_layers, 1, True, True, True, 1e-9, 1e-8, 1.0, 0.0, 1.0)
    try:
        kernels, rates = kernels_for(device), torch.zeros(7, device=device)
        params = [torch.ones(4, 4, device=device), torch.ones(4, device=device)]
        zeros = [p.new_zeros(3, *p.shape) for p in params]
        row, column = params[0].new_zeros(3, 4, 1), params[0].new_zeros(3, 1, 4)
        averages = [Averages(zeros[0], zeros[0][:1], row, column), Averages(zeros[1], zeros[1][:1], zeros[1], None)]
        layers = params[0].new_zeros(31 * hidden + (num_layers - 1) * (hidden + 1) * hidden + hidden + 1)
        new, moments = kernels.measure(params, params, averages, rates, network)
        kernels.move(params, params, new, moments, layers, None, network)
        kernels.advance(params, averages, rates, network)
    except Exception as error:  # whatever a missing or broken Triton raises
        warnings.warn(
            f"l2o goes on without its fast kernels on {device}, several times slower, because Triton failed: {error!r} "
            "(L2O_KERNELS=0 turns kernels and this warning off).",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True

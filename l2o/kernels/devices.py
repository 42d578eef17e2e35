"""Which kernels of the per-coordinate rules serve a device: C++ for the CPU, Triton for CUDA, imported when needed."""

from __future__ import annotations

import importlib
import warnings
from functools import cache
from typing import Any

import torch

from l2o.kernels import coordinate_mlp
from l2o.kernels.coordinate_mlp import MAX_HIDDEN, MAX_LAYERS, Averages, Network


def kernels_for(device: torch.device) -> Any:
    """The module with `measure`, `move` and `advance` for tensors on a device."""
    if device.type == "cpu":
        return coordinate_mlp
    return importlib.import_module("l2o.kernels.coordinate_mlp_triton")


@torch.compiler.assume_constant_result
def available(device: torch.device, hidden: int, num_layers: int, half: bool = False) -> bool:
    """Whether there is a kernel for such a network on a device; see `coordinate_mlp.available`."""
    if device.type == "cpu":
        return coordinate_mlp.available(hidden, num_layers, half)
    return device.type == "cuda" and hidden <= MAX_HIDDEN and num_layers <= MAX_LAYERS and _triton_works(device)


@cache
def _triton_works(device: torch.device) -> bool:
    """Whether the smallest kernel runs; one warning if not, for Triton needs a C compiler and a GPU that it knows."""
    network = Network(1, 1, 1, False, False, False, 0.0, 0.0, 1.0, 0.0, 1.0)
    try:
        x = torch.zeros(4, device=device)
        kernels_for(device).advance([x[0]], [Averages(x[:3], x[3:], x[:3], None)], x.new_zeros(7), network)
    except Exception as error:  # whatever a missing or broken Triton raises
        warnings.warn(
            f"l2o goes on without its fast kernels on {device}, several times slower, because Triton failed: {error!r} "
            "(L2O_KERNELS=0 turns kernels and this warning off).",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True

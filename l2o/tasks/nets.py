"""Networks as pure functions of a dict of parameters, in plain operations that vmap, differentiate twice and compile.

Matrices are (outputs, inputs) as in torch.nn, so that a rule which tells the axes apart meets them as it will in users'
models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.types import Params

Activation: TypeAlias = Literal["sigmoid", "tanh", "relu", "gelu"]

GAIN: dict[Activation, float] = {"sigmoid": 1.0, "tanh": 1.0, "relu": math.sqrt(2), "gelu": math.sqrt(2)}
"""Deviation of initial weights times the square root of the number of inputs; keeps the size of relu's outputs."""


def activate(name: Activation, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """A nonlinearity by name."""
    match name:
        case "sigmoid":
            return torch.sigmoid(x)
        case "tanh":
            return torch.tanh(x)
        case "relu":
            return torch.relu(x)
        case "gelu":
            return F.gelu(x)
    raise ValueError(f"activation must be one of {', '.join(GAIN)}; got {name!r}.")


def init_weight(generator: Generator, *shape: int, gain: float | Tensor = 1.0) -> Float[Tensor, " out *rest"]:
    """Normal weights with deviation gain / sqrt(inputs); the first axis is the output."""
    return torch.randn(shape, generator=generator) * (gain / math.sqrt(math.prod(shape[1:])))


def init_mlp(generator: Generator, sizes: Sequence[int], gain: float | Tensor = 1.0, prefix: str = "") -> Params:
    """Weights and zero biases of fully connected layers between `sizes`."""
    params = {}
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        params[f"{prefix}{i}.weight"] = init_weight(generator, outputs, inputs, gain=gain)
        params[f"{prefix}{i}.bias"] = torch.zeros(outputs)
    return params


def apply_mlp(
    params: Params, x: Float[Tensor, "*batch inputs"], activation: Activation, prefix: str = ""
) -> Float[Tensor, "*batch outputs"]:
    """Fully connected layers with a nonlinearity between them."""
    depth = sum(name.startswith(prefix) and name.endswith(".weight") for name in params)
    for i in range(depth):
        x = F.linear(x, params[f"{prefix}{i}.weight"], params[f"{prefix}{i}.bias"])
        if i < depth - 1:
            x = activate(activation, x)
    return x


def layer_norm(
    x: Float[Tensor, "*batch width"], weight: Float[Tensor, " width"], bias: Float[Tensor, " width"]
) -> Float[Tensor, "*batch width"]:
    """Layer normalisation (Ba et al., 2016, https://arxiv.org/abs/1607.06450)."""
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + 1e-5) * weight + bias


def cross_entropy(logits: Float[Tensor, "*batch classes"], labels: Tensor) -> Float[Tensor, ""]:
    """Mean cross-entropy over all leading axes."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())

"""The small network that a learned rule applies to every coordinate, features leading."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

Layers = list[tuple[Tensor, Tensor]]
"""Weight (outputs, inputs) and bias (outputs) of each layer."""


def columns(features: Float[Tensor, " k *p"]) -> Float[Tensor, "k n"]:
    """The coordinates of a tensor of any rank side by side."""
    return features.reshape(features.shape[0], -1)


def apply_layers(layers: Layers, z: Float[Tensor, "k n"]) -> Float[Tensor, "outputs n"]:
    """A network with relu between its layers, on n coordinates with k features each."""
    for i, (weight, bias) in enumerate(layers):
        z = torch.addmm(bias.unsqueeze(1), weight, z if i == 0 else torch.relu(z))
    return z


class CoordinateMLP(nn.Module):
    """An MLP shared by all coordinates; weights start as truncated normals of variance 1 / inputs, biases at zero.

    Arguments:
        sizes: number of inputs, of each hidden layer's units, of outputs.
        zero_output: start with an output of exactly zero.
    """

    def __init__(self, sizes: Sequence[int], zero_output: bool = False) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            nn.Parameter(fan_in_normal(torch.empty(n_out, n_in))) for n_in, n_out in pairwise(sizes)
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(n_out)) for n_out in sizes[1:])
        if zero_output:
            nn.init.zeros_(self.weights[-1])

    def forward(
        self,
        features: Float[Tensor, " k *p"],
        scale: Float[Tensor, " k"],
        context: Float[Tensor, " c"] | None = None,
    ) -> Float[Tensor, " outputs *p"]:
        """The outputs for features, each times its scale, and for a context that all coordinates share.

        Scale and context go into the first layer's weights and bias: no feature is written a second time.
        """
        layers = [
            (weight.to(features.dtype), bias.to(features.dtype))
            for weight, bias in zip(self.weights, self.biases, strict=True)
        ]
        weight, bias = layers[0]
        if context is not None:
            bias = bias + weight[:, len(scale) :] @ context.to(bias.dtype)
        layers[0] = (weight[:, : len(scale)] * scale, bias)
        return apply_layers(layers, columns(features)).view(-1, *features.shape[1:])


def fan_in_normal(weight: Tensor) -> Tensor:
    """Fill (..., outputs, inputs) with normals of standard deviation 1 / sqrt(inputs), cut off at two of it."""
    std = 1.0 / math.sqrt(weight.shape[-1])
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)

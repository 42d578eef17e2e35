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


def split_layers(flat: Float[Tensor, " w"], shapes: Sequence[tuple[int, int]]) -> Layers:
    """Layers of (outputs, inputs) from their weights and biases in a row."""
    parts = iter(flat.split([n for n_out, n_in in shapes for n in (n_out * n_in, n_out)]))
    return [(next(parts).view(shape), next(parts)) for shape in shapes]


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

    def forward(self, context: Float[Tensor, " c"] | None = None) -> Float[Tensor, " w"]:
        """Weights and biases in a row, for `split_layers`.

        Arguments:
            context: what all coordinates share, the last inputs; it is put into the first layer's bias.
        """
        weights, biases = list(self.weights), list(self.biases)
        if context is not None:
            own = weights[0].shape[1] - len(context)
            biases[0] = biases[0] + weights[0][:, own:] @ context.to(biases[0].dtype)
            weights[0] = weights[0][:, :own]
        return torch.cat([x.reshape(-1) for pair in zip(weights, biases, strict=True) for x in pair])


def fan_in_linear(num_inputs: int, num_outputs: int) -> nn.Linear:
    """A linear layer with such weights, and biases at zero."""
    layer = nn.Linear(num_inputs, num_outputs)
    fan_in_normal(layer.weight.data)
    nn.init.zeros_(layer.bias)
    return layer


def fan_in_normal(weight: Tensor) -> Tensor:
    """Fill (..., outputs, inputs) with normals of standard deviation 1 / sqrt(inputs), cut off at two of it."""
    std = 1.0 / math.sqrt(weight.shape[-1])
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)

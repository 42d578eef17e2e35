"""Hypernetworks: a network whose output is the weights of another (Ha et al., 2017, https://arxiv.org/abs/1609.09106)."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from l2o.learners.answers import unit_rms
from l2o.types import Params


class WeightGenerator(nn.Module):
    """Maps codes to the weights of a target network: one head for each tensor, or all in chunks by one head.

        e = layers(code) of mean square 1,   full:     W_t = offset_t + scale_t * H_t e
        e_k = layers([code, chunk_k]),       chunked:  the same of s_k H e_k, the k-th piece of the row of all weights

    H starts with variance 1 / dim(e), so that H e has variance 1, and scale_t with the root of the mean square of the
    given network's tensor t. Generated weights then have the variance of those that the given network starts with, and
    so have its activations (hyperfan-in of Chang et al., 2020, https://openreview.net/forum?id=H1lma24tPB: the
    initialisation is the given network's instead of being derived again from its fans). Scale and heads are factors,
    which leaves weights of variance 1 to optimizers that take steps of one size, such as Adam. Tensors of equal numbers
    (normalisation's ones, zeros) start as they are, offset_t, with a scale of 0.

    Chunks are of von Oswald et al. (2020, https://arxiv.org/abs/1906.00695, section 2.2): `layers` and H are shared by
    all pieces, which differ by a learned vector each. The signs s_k are not theirs: drawn once, for each weight, they
    make pieces uncorrelated. Without, weights repeat from piece to piece: a perceptron 16-40-40-40-5 of He's weights,
    in pieces of 50, started with outputs of nearly 5 times the mean square.

    Arguments:
        network: the target network; names, shapes and first values of its parameters are noted, it is not kept.
        num_code: numbers in a code.
        hidden: units of the relu layers.
        chunk: numbers in a piece; None for the full generator.
        num_chunk: numbers in the vector of a piece.
    """

    offset: Tensor
    signs: Tensor

    def __init__(
        self,
        network: nn.Module,
        num_code: int,
        hidden: tuple[int, ...] = (100, 100),
        chunk: int | None = None,
        num_chunk: int = 16,
    ) -> None:
        super().__init__()
        if not hidden or (chunk is not None and chunk < 1):
            raise ValueError(
                f"hidden must have a layer and chunk must be positive or None; got hidden={hidden}, chunk={chunk}."
            )
        self.shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
        if not self.shapes:
            raise ValueError(f"the target network must have parameters to generate; {type(network).__name__} has none.")
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.sizes, self.chunk, self.num_code = sizes, chunk, num_code
        num_chunk = 0 if chunk is None else num_chunk
        self.chunks: nn.Parameter | None = None
        if chunk is not None:
            self.chunks = nn.Parameter(torch.randn(-(-sum(sizes) // chunk), num_chunk))
            self.register_buffer("signs", 1.0 - 2.0 * torch.randint(2, (sum(sizes),)))
        self.first = _he(num_code + num_chunk, hidden[0])
        self.rest = nn.ModuleList(_he(a, b) for a, b in pairwise(hidden))
        self.head = nn.Linear(hidden[-1], chunk or sum(sizes))
        nn.init.normal_(self.head.weight, std=hidden[-1] ** -0.5)
        nn.init.zeros_(self.head.bias)
        offset, scale = zip(*(_moments(p.detach()) for p in network.parameters()), strict=True)
        self.register_buffer("offset", torch.stack(offset))
        self.scale = nn.Parameter(torch.stack(scale))

    def forward(self, code: Float[Tensor, "*b code"]) -> Params:
        """The target's parameters, by name; leading axes of the code come back as theirs."""
        parts = self.head(unit_rms(self._features(code)))
        if self.chunk is not None:
            parts = parts.flatten(-2)[..., : sum(self.sizes)] * self.signs
        pieces = zip(parts.split(self.sizes, dim=-1), self.offset.unbind(), self.scale.unbind(), strict=True)
        flat = [offset + scale * part for part, offset, scale in pieces]
        return {
            name: part.unflatten(-1, shape) if shape else part.squeeze(-1)
            for (name, shape), part in zip(self.shapes.items(), flat, strict=True)
        }

    def _features(self, code: Float[Tensor, "*b code"]) -> Float[Tensor, "*n features"]:
        if self.chunks is None:
            z = self.first(code)
        else:  # a product for the code and one for the pieces, in place of one for each pair of them
            of_code, of_chunk = self.first.weight.split([self.num_code, self.chunks.shape[1]], dim=1)
            z = F.linear(code, of_code, self.first.bias).unsqueeze(-2) + self.chunks @ of_chunk.T
        for layer in self.rest:
            z = layer(torch.relu(z))
        return torch.relu(z)


def _he(inputs: int, outputs: int) -> nn.Linear:
    """A layer that keeps the mean square through a relu (He et al., 2015)."""
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


def _moments(p: Tensor) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Where a tensor's numbers are all equal, their value and 0; else 0 and the root of their mean square."""
    value = p.float()
    first = value.flatten()[0]
    alike = (value == first).all()
    return torch.where(alike, first, 0.0), torch.where(alike, 0.0, value.square().mean().sqrt())

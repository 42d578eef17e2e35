"""Where the heads of a memory look: by content, by position, by what was used least. Pure functions of tensors.

Shapes: batch axes first, whatever their number; then heads; then the memory's rows; then the width of a row.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-6
"""Added to squared lengths: rows much shorter than its root are near to nothing, and derivatives stay below 1000."""

TINY = 1e-30
"""The least weight whose logarithm is taken; float32 holds it."""


def content(
    keys: Float[Tensor, "*batch heads width"],
    strengths: Float[Tensor, "*batch heads 1"],
    memory: Float[Tensor, "*#batch rows width"],
) -> Float[Tensor, "*batch heads rows"]:
    """softmax over rows of strength times the cosine of key and row (Graves et al., 2014, equations 5 and 6)."""
    inverse = torch.rsqrt(memory.square().sum(-1) + EPSILON)
    scaled = keys * (strengths * torch.rsqrt(keys.square().sum(-1, keepdim=True) + EPSILON))
    return torch.softmax((scaled @ memory.mT) * inverse.unsqueeze(-2), dim=-1)


def shift(
    weights: Float[Tensor, "*batch heads rows"], shifts: Float[Tensor, "*batch heads places"]
) -> Float[Tensor, "*batch heads rows"]:
    """Circular convolution over rows (equation 8): place k of the 2 n + 1 turns weights by k - n rows.

    The middle place leaves them, the one after it turns them by +1, from row i to row i + 1.
    """
    num, rows = shifts.shape[-1], weights.shape[-1]
    reach = num // 2
    if num % 2 == 0 or reach > rows:
        raise ValueError(
            "shifts must be an odd number, as many to either side, that reach no farther than once round the memory; "
            f"got {num} for {rows} rows."
        )
    ring = torch.cat([weights[..., rows - reach :], weights, weights[..., :reach]], dim=-1)
    parts = shifts.split(1, dim=-1)
    turned = ring[..., num - 1 : num - 1 + rows] * parts[0]
    for k in range(1, num):
        turned = torch.addcmul(turned, ring[..., num - 1 - k : num - 1 - k + rows], parts[k])
    return turned


def sharpen(
    weights: Float[Tensor, "*batch heads rows"], powers: Float[Tensor, "*batch heads 1"]
) -> Float[Tensor, "*batch heads rows"]:
    """w^power, made to sum to 1 (equation 9), by logarithms: the powers themselves may all be 0 in float32."""
    return torch.softmax(powers * weights.clamp(min=TINY).log(), dim=-1)


def write(
    memory: Float[Tensor, "*batch rows width"],
    weights: Float[Tensor, "*batch heads rows"],
    erase: Float[Tensor, "*batch heads width"],
    add: Float[Tensor, "*batch heads width"],
) -> Float[Tensor, "*batch rows width"]:
    """M <- M * prod_h (1 - w_h e_h^T) + sum_h w_h a_h^T (equations 3 and 4): all heads erase, then all add."""
    places = weights.mT
    for w, e in zip(places.split(1, dim=-1), erase.split(1, dim=-2), strict=True):
        memory = torch.addcmul(memory, w, memory * e, value=-1.0)
    return memory + places @ add


def least_used(usage: Float[Tensor, "*batch rows"], heads: int) -> Float[Tensor, "*batch heads rows"]:
    """One-hot, for each head a row of its own: the least used, the second least, ...; of equal ones the first.

    (Santoro et al., 2016, equation 6, where it is one vector with as many ones.)
    """
    order = usage.detach().sort(dim=-1, stable=True).indices[..., :heads]
    rows = torch.arange(usage.shape[-1], device=usage.device)
    return (order.unsqueeze(-1) == rows).to(usage.dtype)


def focused(like: Tensor, *shape: int) -> Float[Tensor, "*shape"]:
    """Weights that are wholly on row 0."""
    weights = like.new_zeros(shape)
    weights[..., 0] = 1.0
    return weights

"""Orthogonalisation by matrix products alone, as Muon does it (Jordan et al., 2024,
https://kellerjordan.github.io/posts/muon/)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from l2o.rules.base import working
from l2o.tracing import constant

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic a x + b x^3 + c x^5, chosen for its slope at 0: singular values end between about 0.7 and 1.2."""

LARGE = 512
"""Rows from which on a matrix is iterated in bfloat16."""


def newton_schulz(
    matrix: Float[Tensor, "*batch m n"],
    num_steps: int = 5,
    coefficients: tuple[float, float, float] = COEFFICIENTS,
) -> Float[Tensor, "*batch m n"]:
    """Close to U V^T for matrix = U S V^T; a zero matrix, row or column stays zero, the scale plays no part.

    X <- a X + (b X X^T + c (X X^T)^2) X, started at X = matrix / |matrix|_F. Large float32 matrices are iterated in
    bfloat16 where the machine multiplies that faster, as Muon's authors do: singular values are not exact anyway.
    """
    if matrix.numel() == 0:
        return matrix
    a, b, c = coefficients
    x = matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT
    # by the largest entry first: squares of 1e20 are not finite; it cancels, so it needs no derivative
    largest = x.detach().abs().amax(dim=(-2, -1), keepdim=True)
    x = x / torch.where(largest > 0, largest, 1.0)
    x = x * torch.rsqrt(x.square().sum(dim=(-2, -1), keepdim=True) + 1e-14)
    if x.dtype == torch.float32 and x.shape[-2] >= LARGE and _has_bfloat16(x.device.type):
        x = x.bfloat16()
    shape = x.shape
    if x.ndim > 2:
        x = x.flatten(0, -3)
        x = x[0] if len(x) == 1 else x  # a batch of one is multiplied more slowly
    multiply, add = (torch.mm, torch.addmm) if x.ndim == 2 else (torch.bmm, torch.baddbmm)
    for _ in range(num_steps):
        gram = multiply(x, x.mT)
        x = add(x, add(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.view(shape).to(matrix.dtype)
    return x if matrix.shape[-2] <= matrix.shape[-1] else x.mT


@constant
def _has_bfloat16(device: str) -> bool:
    """Whether bfloat16 matrices are multiplied by instructions of their own."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    told: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # not in older versions
    return device == "cpu" and any(told.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def orthogonal_steps(
    looks: Float[Tensor, "n *shape"], shares: Float[Tensor, " n"], size: float, most: float = math.inf
) -> Float[Tensor, "n *shape"]:
    """The nearest orthogonal matrices, of root mean square `size` over the share of their coordinates that move.

    Arguments:
        looks: of rank 2 or more each, matrices of the first dimension by all others.
        shares: of each, from 0 to 1.
        most: limit on the largest singular value, in those of a matrix of full rank; of low rank it would be more.
    """
    found = newton_schulz(working(looks).flatten(2))
    count = (shares * looks[0].numel()).clamp(min=1.0)
    scale = torch.rsqrt(found.square().sum(dim=(1, 2)) / count + 1e-9).clamp(max=most * math.sqrt(max(found.shape[1:])))
    return ((size * scale).to(found.dtype).view(-1, 1, 1) * found).view(looks.shape).to(looks.dtype)

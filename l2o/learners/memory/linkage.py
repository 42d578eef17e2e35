"""Which row to write next, and which was written after which (Graves et al., 2016, Methods). Pure functions."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

LEAST = 1e-6
"""The least usage in a product, as in the authors' code."""


def usage_after(
    usage: Float[Tensor, "*batch rows"],
    written: Float[Tensor, "*batch rows"],
    read: Float[Tensor, "*batch heads rows"],
    free: Float[Tensor, "*batch heads 1"],
) -> Float[Tensor, "*batch rows"]:
    """u <- (u + w - u w) * prod_i (1 - f_i r_i): what was written is used, what was read and is freed is not.

    Arguments:
        written: write weights of the step before.
        read: read weights of the step before.
        free: gates of the read heads, 1 to free what they read.
    """
    usage = usage + written * (1 - usage)
    for kept in (1 - free * read).unbind(dim=-2):
        usage = usage * kept
    return usage


def allocation(usage: Float[Tensor, "*batch rows"]) -> Float[Tensor, "*batch rows"]:
    """a[i] = (1 - u[i]) times the product of the usage of all rows that are used less; of equal ones the first is less.

    Products by logarithms of LEAST + (1 - LEAST) u, which have derivatives where a usage is 0.
    """
    ordered, order = usage.sort(dim=-1, stable=True)
    logs = torch.log(LEAST + (1 - LEAST) * ordered)
    before = logs.cumsum(-1) - logs
    shares = (1 - ordered) * before.exp()
    return torch.zeros_like(shares).scatter(-1, order, shares)


def precedence_after(
    precedence: Float[Tensor, "*batch rows"], written: Float[Tensor, "*batch rows"]
) -> Float[Tensor, "*batch rows"]:
    """p <- (1 - sum w) p + w: how much each row was the last one written."""
    return precedence - written.sum(-1, keepdim=True) * precedence + written


def link_after(
    link: Float[Tensor, "*batch rows rows"],
    precedence: Float[Tensor, "*batch rows"],
    written: Float[Tensor, "*batch rows"],
) -> Float[Tensor, "*batch rows rows"]:
    """L[i, j] <- (1 - w[i] - w[j]) L[i, j] + w[i] p[j], 0 where i = j: how much row i was written right after row j.

    Arguments:
        precedence: before this write.
    """
    at, by = written.unsqueeze(-1), written.unsqueeze(-2)
    off_diagonal = 1 - torch.eye(link.shape[-1], dtype=link.dtype, device=link.device)
    return torch.addcmul(link * (1 - at - by), at, precedence.unsqueeze(-2)) * off_diagonal


def follow(
    link: Float[Tensor, "*batch rows rows"], read: Float[Tensor, "*batch heads rows"]
) -> tuple[Float[Tensor, "*batch heads rows"], Float[Tensor, "*batch heads rows"]]:
    """Backward and forward: the rows written before, and after, those that were read."""
    return read @ link, read @ link.mT

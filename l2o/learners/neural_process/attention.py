"""Attention, of single episodes in plain operations, which every transform takes: torch's has no second derivatives."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from l2o.learners.transforms import inside_transform


def attend(
    queries: Float[Tensor, "*b m width"],
    keys: Float[Tensor, "*b n width"],
    values: Float[Tensor, "*b n width"],
    heads: int,
    visible: Bool[Tensor, "m n"] | None = None,
    axes: int = 2,
) -> Float[Tensor, "*b m width"]:
    """Multi-head scaled dot-product attention (Vaswani et al., 2017); over nothing it gives zeros.

    Arguments:
        visible: which keys a query sees; None for all.
        axes: of the queries of one episode; more are stacked episodes.
    """
    q, k, v = (_apart(x, heads) for x in (queries, keys, values))
    if queries.ndim > axes and keys.shape[-2] and not inside_transform():
        # stacked episodes, which no second derivatives pass through: a third faster
        return F.scaled_dot_product_attention(q, k, v, visible).transpose(-3, -2).flatten(-2)
    scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.mT
    if visible is not None:
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, dim=-1)
    weights = weights if visible is None else weights * visible
    return (weights @ v).transpose(-3, -2).flatten(-2)


def _apart(x: Float[Tensor, "*b n width"], heads: int) -> Float[Tensor, "*b heads n part"]:
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


class CrossAttention(nn.Module):
    """Values at queries, by attention to keys; with projections.

    Arguments:
        queries: numbers in a query, and in a key.
        width: numbers in a value, and in the output.
        heads: they share the width.
        axes: see `attend`.
    """

    def __init__(self, queries: int, width: int, heads: int, axes: int = 2) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads, self.axes = heads, axes
        self.q, self.k = nn.Linear(queries, width), nn.Linear(queries, width)
        self.v, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(
        self, queries: Float[Tensor, "*b m q"], keys: Float[Tensor, "*b n q"], values: Float[Tensor, "*b n width"]
    ) -> Float[Tensor, "*b m width"]:
        return self.out(attend(self.q(queries), self.k(keys), self.v(values), self.heads, axes=self.axes))


class TransformerLayer(nn.Module):
    """Attention and a network of two layers, each added to its input and normalised after (Vaswani et al., 2017).

    What is attended to is what `shows` made of this layer's inputs (keys and values), so that for tokens that only look
    it need not be made again.

    Arguments:
        width: numbers in a token.
        heads: of attention.
        hidden: units of the network.
        axes: see `attend`.
    """

    def __init__(self, width: int, heads: int, hidden: int, axes: int = 2) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads, self.width, self.axes = heads, width, axes
        self.queries, self.shows = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        for layer in (self.queries, self.shows):  # as torch's own layers are drawn
            nn.init.uniform_(layer.weight, -math.sqrt(1.5 / width), math.sqrt(1.5 / width))
        for layer in (self.queries, self.shows, self.out):
            nn.init.zeros_(layer.bias)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.hidden, self.back = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(
        self,
        tokens: Float[Tensor, "*b m width"],
        seen: Float[Tensor, "*b n both"],
        visible: Bool[Tensor, "m n"] | None = None,
    ) -> Float[Tensor, "*b m width"]:
        keys, values = seen.chunk(2, dim=-1)
        z = self.norm1(tokens + self.out(attend(self.queries(tokens), keys, values, self.heads, visible, self.axes)))
        return self.norm2(z + self.back(torch.relu(self.hidden(z))))


def check_heads(width: int, heads: int) -> None:
    """Raise a ValueError where heads cannot share a width."""
    if heads < 1 or width % heads:
        raise ValueError(f"width must be a multiple of heads, which share it; got {width} and {heads}.")

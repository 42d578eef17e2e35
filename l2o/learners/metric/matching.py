"""Matching networks (Vinyals et al., 2016, https://arxiv.org/abs/1606.04080)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from l2o.learners.answers import features_of
from l2o.learners.base import Fast, Learner, loss_of, one_hot, way_of
from l2o.learners.lstm_cell import LSTMCell
from l2o.tasks.episodes import Examples


class MatchingNetwork(Learner):
    """A query's label is the mean of the support labels, weighted by attention; the scores are its logarithm.

        p(y | x) = sum_i a(x, x_i) y_i,   a(x, x_i) = softmax_i cos(f(x), g(x_i))

    With full context, g reads the support set as a sequence and f reads g (appendix A), so that the order of the
    support set matters; without, f and g are the encoder, and it does not.

    The fast variables are the support embeddings and their labels, as probabilities.

    Arguments:
        encoder: maps inputs (n, *features) to embeddings (n, dim).
        way: classes in an episode; None to count them in each support set, which `vmap` cannot.
        full_context: whether embeddings depend on the support set.
        num_reads: how often f reads it, K of the paper, which does not say how many.
        num_features: numbers in an embedding, where there is context; None for the encoder's `num_features`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        way: int | None = None,
        full_context: bool = True,
        num_reads: int = 3,
        num_features: int | None = None,
    ) -> None:
        super().__init__()
        if num_reads < 1:
            raise ValueError(f"num_reads must be at least 1, or f would not read the support set; got {num_reads}.")
        self.encoder, self.way, self.full_context = encoder, way, full_context
        if full_context:
            dim = features_of(encoder, num_features)
            self.g = BidirectionalLSTM(dim)
            self.f = AttentionLSTM(dim, num_reads)

    def start(self, support: Examples) -> Fast:
        z = self.encoder(support.x)
        labels = one_hot(support.y, way_of(support, self.way), z)
        return {"references": self.g(z) if self.full_context else z, "labels": labels}

    def inner_loss(self, fast: Fast, support: Examples) -> Float[Tensor, ""]:
        return loss_of(self.predict(fast, support.x), support.y)

    def predict(self, fast: Fast, x: Shaped[Tensor, " n *features"]) -> Float[Tensor, "n way"]:
        return torch.log((self.attention(fast, x) @ fast["labels"]).clamp(min=1e-6))  # a step may lead below 0

    def attention(self, fast: Fast, x: Shaped[Tensor, " n *features"]) -> Float[Tensor, "n support"]:
        """The weight of each support example for each input; an input's sum to 1."""
        z = self.encoder(x)
        z = self.f(z, fast["references"]) if self.full_context else z
        return torch.softmax(_unit(z) @ _unit(fast["references"]).T, dim=-1)


class BidirectionalLSTM(nn.Module):
    """g of appendix A.2: a sequence, to which the states of an LSTM from either end are added.

    Arguments:
        dim: numbers in an element, and in a state.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.forth, self.back = LSTMCell(dim, dim, dim), LSTMCell(dim, dim, dim)

    def forward(self, z: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
        return z + _states(self.forth, z) + _states(self.back, z.flip(0)).flip(0)


class AttentionLSTM(nn.Module):
    """f of appendix A.1 (equations 3 to 6): an LSTM that reads a set by attention again and again.

    Arguments:
        dim: numbers in an embedding.
        num_reads: steps.
    """

    def __init__(self, dim: int, num_reads: int) -> None:
        super().__init__()
        self.cell, self.num_reads = LSTMCell(dim, 2 * dim, dim), num_reads

    def forward(self, z: Float[Tensor, "n dim"], references: Float[Tensor, "m dim"]) -> Float[Tensor, "n dim"]:
        inputs, h, c = self.cell.read(z), z, torch.zeros_like(z)
        for _ in range(self.num_reads):
            r = torch.softmax(h @ references.T, dim=-1) @ references
            state, c = self.cell(inputs, torch.cat([h, r], dim=-1), c)
            h = state + z
        return h


def _states(cell: LSTMCell, z: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    h = c = torch.zeros_like(z[0])
    states = []
    for inputs in cell.read(z).unbind():
        h, c = cell(inputs, h, c)
        states.append(h)
    return torch.stack(states)


def _unit(z: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    """Of length 1; an embedding of zeros stays one, and has derivatives."""
    return z * torch.rsqrt(z.square().sum(-1, keepdim=True) + 1e-12)

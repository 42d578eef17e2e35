"""A simple neural attentive meta-learner, SNAIL (Mishra et al., 2018, https://arxiv.org/abs/1707.03141)."""

from __future__ import annotations

import math
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from l2o.learners.answers import answers, check_outputs, features_of
from l2o.learners.base import Fast, Learner, loss_of
from l2o.tasks.episodes import Examples

Memory: TypeAlias = dict[str, Tensor]
"""What a block keeps of the support set for the queries, by name."""


class SNAIL(Learner):
    """Causal attention and causal temporal convolutions, in turns, over the support set and one query behind it.

    Each query is the end of a sequence of its own: it sees the support set and itself. The support set sees no query,
    so it is read once; what the blocks keep of it (keys and values; the one row behind that a convolution reads) are
    the fast variables, and all queries are answered from them side by side. Labels are read as rows of zeros and a
    one, targets as they are. The order of the support set matters.

    The blocks are attention, convolutions, attention, convolutions, attention (figure 2 and appendix A of the paper).
    Convolutions reach back 1, 2, 4, ... rows, as WaveNet's do; the paper's listing begins at 2, which never reaches
    every other row.

    Arguments:
        encoder: maps inputs (n, *features) to embeddings (n, dim).
        outputs: classes in an episode, or numbers in a target.
        length: rows that the convolutions reach over: those of a support set and the query.
        filters: of a convolution.
        attention: numbers in a key and in a value, of each of the three attentions.
        num_features: numbers in an embedding; None for the encoder's `num_features`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        outputs: int,
        length: int,
        filters: int = 128,
        attention: tuple[tuple[int, int], ...] = ((64, 32), (256, 128), (512, 256)),
        num_features: int | None = None,
    ) -> None:
        super().__init__()
        if length < 2:
            raise ValueError(f"length must be at least 2, a support row and the query; got {length}.")
        if not attention:
            raise ValueError("attention must have a (key, value) for one block at least; got none.")
        self.encoder, self.outputs = encoder, check_outputs(outputs)
        width, blocks = features_of(encoder, num_features) + outputs, list[nn.Module]()
        for i, (key, value) in enumerate(attention):
            if i > 0:
                for power in range(math.ceil(math.log2(length))):
                    blocks.append(DenseBlock(width, 2**power, filters))
                    width += filters
            blocks.append(AttentionBlock(width, key, value))
            width += value
        self.blocks, self.head = nn.ModuleList(blocks), nn.Linear(width, outputs)

    def start(self, support: Examples) -> Fast:
        z = self.encoder(support.x)
        rows, fast = torch.cat([z, answers(support.y, self.outputs, z)], dim=-1), Fast()
        for i, block in enumerate(self._blocks()):
            rows, memory = block.read(rows)
            fast |= {f"{name}{i}": value for name, value in memory.items()}
        return fast

    def inner_loss(self, fast: Fast, support: Examples) -> Float[Tensor, ""]:
        return loss_of(self.predict(fast, support.x), support.y)

    def predict(self, fast: Fast, x: Shaped[Tensor, " n *features"]) -> Float[Tensor, "n outputs"]:
        z = self.encoder(x)
        rows = torch.cat([z, z.new_zeros(len(z), self.outputs)], dim=-1)
        for i, block in enumerate(self._blocks()):
            rows = block.answer(rows, {name: fast[f"{name}{i}"] for name in block.names if f"{name}{i}" in fast})
        return self.head(rows)

    def _blocks(self) -> list[AttentionBlock | DenseBlock]:
        return cast("list[AttentionBlock | DenseBlock]", list(self.blocks))


class AttentionBlock(nn.Module):
    """Appends to each row what it reads from those up to itself, softmax(q K^T / sqrt(key)) V.

    Queries begin as keys do: rows that are alike then attend to each other from the first step of training on.

    Arguments:
        width: numbers in a row.
        key: numbers in a key.
        value: numbers in a value.
    """

    names = ("keys", "values")

    def __init__(self, width: int, key: int, value: int) -> None:
        super().__init__()
        self.queries, self.keys, self.values = nn.Linear(width, key), nn.Linear(width, key), nn.Linear(width, value)
        self.queries.load_state_dict(self.keys.state_dict())
        self.scale = key**-0.5

    def read(self, x: Float[Tensor, "n width"]) -> tuple[Float[Tensor, "n wider"], Memory]:
        """The rows with what they read, and what later rows need."""
        keys, values = self.keys(x), self.values(x)
        later = torch.ones(len(x), len(x), dtype=torch.bool, device=x.device).triu(1)
        logits = (self.scale * self.queries(x) @ keys.T).masked_fill(later, float("-inf"))
        return torch.cat([x, torch.softmax(logits, dim=-1) @ values], dim=-1), {"keys": keys, "values": values}

    def answer(self, x: Float[Tensor, "n width"], memory: Memory) -> Float[Tensor, "n wider"]:
        """Rows that each stand alone behind those that were read."""
        queries, own = self.scale * self.queries(x), (self.keys(x), self.values(x))
        logits = torch.cat([queries @ memory["keys"].T, (queries * own[0]).sum(-1, keepdim=True)], dim=-1)
        weights = torch.softmax(logits, dim=-1)
        return torch.cat([x, weights[:, :-1] @ memory["values"] + weights[:, -1:] * own[1]], dim=-1)


class DenseBlock(nn.Module):
    """Appends to each row a gated causal convolution over itself and the row `dilation` before, tanh(a) sigmoid(b).

    Before the first row are zeros.

    Arguments:
        width: numbers in a row.
        dilation: how many rows back.
        filters: numbers that are appended.
    """

    names = ("past",)

    def __init__(self, width: int, dilation: int, filters: int) -> None:
        super().__init__()
        self.now, self.before = nn.Linear(width, 2 * filters), nn.Linear(width, 2 * filters, bias=False)
        self.dilation = dilation

    def read(self, x: Float[Tensor, "n width"]) -> tuple[Float[Tensor, "n wider"], Memory]:
        """As of `AttentionBlock`."""
        past = F.pad(x, (0, 0, self.dilation, 0))
        memory = {"past": x[-self.dilation]} if self.dilation <= len(x) else {}
        return self._append(x, self.before(past[: len(x)])), memory

    def answer(self, x: Float[Tensor, "n width"], memory: Memory) -> Float[Tensor, "n wider"]:
        """As of `AttentionBlock`."""
        return self._append(x, self.before(memory["past"]) if memory else x.new_zeros(()))

    def _append(self, x: Float[Tensor, "n width"], before: Float[Tensor, "..."]) -> Float[Tensor, "n wider"]:
        a, b = (self.now(x) + before).chunk(2, dim=-1)
        return torch.cat([x, torch.tanh(a) * torch.sigmoid(b)], dim=-1)

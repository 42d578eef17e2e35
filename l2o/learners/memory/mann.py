"""Memory-augmented network with least-recently-used access (Santoro et al., 2016, https://arxiv.org/abs/1605.06065)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from l2o.learners.memory.addressing import content, focused, least_used
from l2o.learners.memory.core import SHARP, MemoryCore


class MANNState(NamedTuple):
    """What the network remembers.

    h, c: of the controller.
    reads: what was read last.
    memory: its rows.
    usage: how much each row was read and written, fading.
    weights: of the heads, where they read last.
    """

    h: Float[Tensor, "*batch controller"]
    c: Float[Tensor, "*batch controller"]
    reads: Float[Tensor, "*batch num_reads width"]
    memory: Float[Tensor, "*batch rows width"]
    usage: Float[Tensor, "*batch rows"]
    weights: Float[Tensor, "*batch num_reads rows"]


class MANN(MemoryCore):
    """An LSTM that reads by content, then writes to where it read last or to the row it used least, emptied first.

        write = g read_before + (1 - g) least_used,    usage <- gamma usage + read + write

    Each head has a row of its own, and one key, by which it reads and which it writes: what is written for an example
    is then found by another of its kind from the first step of training on. Keys are compared with the memory before
    the step; the paper's formulas, taken literally, compare them with the memory after it, where each would find its
    own writing first. So a label that comes a step late is written with its example only if the controller still
    knows the example. The paper has no strength beside the cosine.

    Arguments:
        inputs, outputs, controller, rows, width, num_reads: see `MemoryCore`.
        gamma: by which usage fades in a step.
        strength: of the cosine, where training begins, as the controller says it (it is multiplied by its softplus);
            None for the paper's, which is 1 and leaves a softmax over 128 cosines all but flat.
    """

    State = MANNState

    def __init__(
        self,
        inputs: int,
        outputs: int,
        controller: int = 200,
        rows: int = 128,
        width: int = 40,
        num_reads: int = 4,
        gamma: float = 0.99,
        strength: float | None = SHARP,
    ) -> None:
        super().__init__(inputs, outputs, controller, rows, width, num_reads)
        if not 0 <= gamma <= 1 or num_reads > rows:
            raise ValueError(
                "gamma must be from 0 to 1, and there must be a row for each head; got "
                f"gamma={gamma}, num_reads={num_reads}, rows={rows}."
            )
        if isinstance(strength, bool):
            raise TypeError(f"strength must be a number, or None for the paper's; got {strength}.")
        self.gamma, self.strength = gamma, strength
        self.sizes = (width, 1, 1)  # key, gate, strength
        self.heads = nn.Linear(controller, num_reads * sum(self.sizes))
        if strength is not None:
            with torch.no_grad():
                self.heads.bias.unflatten(0, (num_reads, -1))[:, -1] = strength

    def initial(self, *batch: int) -> MANNState:
        like = self.output.weight
        weights = focused(like, *batch, self.num_reads, self.rows)
        return MANNState(usage=like.new_zeros(*batch, self.rows), weights=weights, **self.blank(*batch))

    def step(
        self, read: Float[Tensor, "*batch gates"], state: MANNState
    ) -> tuple[Float[Tensor, "*batch features"], MANNState]:
        h, c = self.control(read, state)
        keys, gates, weights, reads = self._look(h, state)
        written, memory = write_least_used(state.memory, state.usage, state.weights, torch.sigmoid(gates), keys)
        usage = self.gamma * state.usage + (weights + written).sum(-2)
        return torch.cat([h, reads.flatten(-2)], dim=-1), MANNState(h, c, reads, memory, usage, weights)

    def recall(self, h: Float[Tensor, "num controller"], state: MANNState) -> Float[Tensor, "num num_reads width"]:
        return self._look(h, state)[-1]

    def _look(
        self, h: Float[Tensor, "*batch controller"], state: MANNState
    ) -> tuple[
        Float[Tensor, "*batch num_reads width"],
        Float[Tensor, "*batch num_reads 1"],
        Float[Tensor, "*batch num_reads rows"],
        Float[Tensor, "*batch num_reads width"],
    ]:
        """Keys, gates of writing, weights of reading, and what is read."""
        said = self.heads(h).unflatten(-1, (self.num_reads, -1))
        keys, gates, strengths = said.split(self.sizes, dim=-1)
        strengths = torch.ones_like(strengths) if self.strength is None else F.softplus(strengths)
        weights = content(keys, strengths, state.memory)
        return keys, gates, weights, weights @ state.memory


def write_least_used(
    memory: Float[Tensor, "*batch rows width"],
    usage: Float[Tensor, "*batch rows"],
    read: Float[Tensor, "*batch heads rows"],
    gates: Float[Tensor, "*batch heads 1"],
    added: Float[Tensor, "*batch heads width"],
) -> tuple[Float[Tensor, "*batch heads rows"], Float[Tensor, "*batch rows width"]]:
    """The write weights and the memory after (equations 7 and 8); the least-used rows are set to zero before.

    Arguments:
        read: the last read weights.
        gates: 1 to write where was read, 0 to the least used row.
    """
    least = least_used(usage, read.shape[-2])
    weights = torch.lerp(least, read, gates)
    emptied = memory * (1 - least.sum(-2)).unsqueeze(-1)
    return weights, emptied + weights.mT @ added

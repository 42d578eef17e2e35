"""Differentiable neural computer (Graves et al., 2016, https://doi.org/10.1038/nature20101)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from l2o.learners.memory.addressing import content, write
from l2o.learners.memory.core import OPEN, SHARP, MemoryCore
from l2o.learners.memory.linkage import allocation, follow, link_after, precedence_after, usage_after


class DNCState(NamedTuple):
    """What the computer remembers.

    h, c: of the controller.
    reads: what was read last.
    memory: its rows.
    usage: of each row, from 0, free, to 1.
    link: how much row i was written right after row j.
    precedence: how much each row was the last one written.
    written: the last write weights.
    read: the last read weights.
    """

    h: Float[Tensor, "*batch controller"]
    c: Float[Tensor, "*batch controller"]
    reads: Float[Tensor, "*batch num_reads width"]
    memory: Float[Tensor, "*batch rows width"]
    usage: Float[Tensor, "*batch rows"]
    link: Float[Tensor, "*batch rows rows"]
    precedence: Float[Tensor, "*batch rows"]
    written: Float[Tensor, "*batch rows"]
    read: Float[Tensor, "*batch num_reads rows"]


class DNC(MemoryCore):
    """An LSTM that writes to free rows or by content, and reads by content or in the order of writing; writes first.

    Written rows are found by content in the memory before the step, rows to be read in the memory after it; where
    nothing is to be written (`answer`), in the memory as it is. The three modes of a read head are backward, forward
    and content, in this order.

    Arguments:
        inputs, outputs, controller, rows, width, num_reads: see `MemoryCore`.
        stop_usage: whether usage has no derivative by the write weights, as in the authors' code (the paper does not
            say so).
        associative: begin as an associative memory: what is written is a read head's key, to a free row, and what is
            read is most like the key, see `NTM`.
    """

    State = DNCState

    def __init__(
        self,
        inputs: int,
        outputs: int,
        controller: int = 100,
        rows: int = 64,
        width: int = 20,
        num_reads: int = 1,
        stop_usage: bool = True,
        associative: bool = False,
    ) -> None:
        super().__init__(inputs, outputs, controller, rows, width, num_reads)
        self.stop_usage = stop_usage
        self.reading = (width, 1, 1, 3)  # of each read head: key, strength, free gate, modes
        self.writing = (width, 1, width, width, 1, 1)  # key, strength, erase, add, allocation gate, write gate
        self.read_heads = nn.Linear(controller, num_reads * sum(self.reading))
        self.write_head = nn.Linear(controller, sum(self.writing))
        if associative:
            self._associate()

    @torch.no_grad()
    def _associate(self) -> None:
        width = self.width
        reading, writing = self.read_heads.bias.unflatten(0, (self.num_reads, -1)), self.write_head.bias
        # strength (with as much as the NTM's, which sharpens its weights after it, it learns later), free gate, content
        reading[:, width], reading[:, width + 1], reading[:, -1] = 2 * SHARP, -OPEN, OPEN
        writing[-2:] = OPEN  # allocation and write gate
        for said, written in ((self.read_heads.weight, self.write_head.weight), (self.read_heads.bias, writing)):
            written[2 * width + 1 : 3 * width + 1] = said[:width]

    def initial(self, *batch: int) -> DNCState:
        like, rows = self.output.weight, self.rows
        return DNCState(
            usage=like.new_zeros(*batch, rows),
            link=like.new_zeros(*batch, rows, rows),
            precedence=like.new_zeros(*batch, rows),
            written=like.new_zeros(*batch, rows),
            read=like.new_zeros(*batch, self.num_reads, rows),
            **self.blank(*batch),
        )

    def step(
        self, read: Float[Tensor, "*batch gates"], state: DNCState
    ) -> tuple[Float[Tensor, "*batch features"], DNCState]:
        h, c = self.control(read, state)
        said = self._said(h)
        _, _, free, _ = said
        before = state.written.detach() if self.stop_usage else state.written
        usage = usage_after(state.usage, before, state.read, torch.sigmoid(free))
        written, memory = self.write_to(h, usage, state.memory)
        link = link_after(state.link, state.precedence, written)
        reading = self._look(said, memory, link, state.read)
        reads = reading @ memory
        precedence = precedence_after(state.precedence, written)
        after = DNCState(h, c, reads, memory, usage, link, precedence, written, reading)
        return torch.cat([h, reads.flatten(-2)], dim=-1), after

    def recall(self, h: Float[Tensor, "num controller"], state: DNCState) -> Float[Tensor, "num num_reads width"]:
        return self._look(self._said(h), state.memory, state.link, state.read) @ state.memory

    def _said(self, h: Float[Tensor, "*batch controller"]) -> tuple[Tensor, ...]:
        """Of each read head: key, strength, free gate, modes."""
        return self.read_heads(h).unflatten(-1, (self.num_reads, -1)).split(self.reading, dim=-1)

    def _look(
        self,
        said: tuple[Tensor, ...],
        memory: Float[Tensor, "*#batch rows width"],
        link: Float[Tensor, "*#batch rows rows"],
        read: Float[Tensor, "*#batch heads rows"],
    ) -> Float[Tensor, "*batch heads rows"]:
        """Where the read heads go from where they were."""
        keys, strengths, _, modes = said
        backward, forward = follow(link, read)
        found = content(keys, 1 + F.softplus(strengths), memory)
        back, forth, by_content = torch.softmax(modes, dim=-1).split(1, dim=-1)
        return back * backward + forth * forward + by_content * found

    def write_to(
        self,
        h: Float[Tensor, "*batch controller"],
        usage: Float[Tensor, "*batch rows"],
        memory: Float[Tensor, "*batch rows width"],
    ) -> tuple[Float[Tensor, "*batch rows"], Float[Tensor, "*batch rows width"]]:
        """The write weights, and the memory after the write."""
        said = self.write_head(h).unsqueeze(-2)
        key, strength, erase, add, allocate, gate = said.split(self.writing, dim=-1)
        found = content(key, 1 + F.softplus(strength), memory)
        chosen = torch.lerp(found, allocation(usage).unsqueeze(-2), torch.sigmoid(allocate))
        weights = torch.sigmoid(gate) * chosen
        return weights.squeeze(-2), write(memory, weights, torch.sigmoid(erase), add)

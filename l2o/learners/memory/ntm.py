"""Neural Turing machine (Graves et al., 2014, https://arxiv.org/abs/1410.5401)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from l2o.learners.memory.addressing import content, focused, sharpen, shift, write
from l2o.learners.memory.core import OPEN, SHARP, MemoryCore


class NTMState(NamedTuple):
    """What a Turing machine remembers.

    h, c: of the controller.
    reads: what was read last.
    weights: of the heads, those that read before those that write; each sums to 1.
    memory: the tape.
    """

    h: Float[Tensor, "*batch controller"]
    c: Float[Tensor, "*batch controller"]
    reads: Float[Tensor, "*batch num_reads width"]
    weights: Float[Tensor, "*batch heads rows"]
    memory: Float[Tensor, "*batch rows width"]


class NTM(MemoryCore):
    """An LSTM whose heads find rows by content, then move by location; it reads, then writes.

        w = sharpen(shift(g content(k, beta) + (1 - g) w_before, s), gamma)

    with beta = softplus, g = sigmoid, s = softmax, gamma = 1 + softplus of what the controller says; erase vectors are
    sigmoids, add vectors tanhs. Heads begin on row 0. All heads address the memory as it was before the step.

    Arguments:
        inputs, outputs, controller, rows, width, num_reads: see `MemoryCore`.
        num_writes: write heads.
        reach: rows that a head can move by in a step, to either side.
        associative: begin as an associative memory: what is written is a read head's key, row after row, and what is
            read is most like the key. Examples are then told apart by what was written from the first step of training
            on; else that comes late, or not at all.
    """

    State = NTMState

    def __init__(
        self,
        inputs: int,
        outputs: int,
        controller: int = 100,
        rows: int = 128,
        width: int = 20,
        num_reads: int = 1,
        num_writes: int = 1,
        reach: int = 1,
        associative: bool = False,
    ) -> None:
        super().__init__(inputs, outputs, controller, rows, width, num_reads)
        if num_writes < 1 or not 0 <= reach <= rows // 2:
            raise ValueError(
                "num_writes must be at least 1, and reach from 0 to half the rows, or heads would go round; got "
                f"num_writes={num_writes}, reach={reach}, rows={rows}."
            )
        self.num_writes, self.reach = num_writes, reach
        self.heads = num_reads + num_writes
        self.sizes = (width, 1, 1, 2 * reach + 1, 1)  # key, strength, gate, shifts, power
        self.address = nn.Linear(controller, self.heads * sum(self.sizes))
        self.change = nn.Linear(controller, num_writes * 2 * width)
        if associative:
            self._associate()

    @torch.no_grad()
    def _associate(self) -> None:
        key = self.width  # behind it: strength, gate, shifts by -reach ... reach, power
        reading, writing = self.address.bias.unflatten(0, (self.heads, -1)).split([self.num_reads, self.num_writes])
        reading[:, key], reading[:, key + 1], reading[:, key + 2 + self.reach] = SHARP, OPEN, OPEN
        writing[:, key + 1] = -OPEN
        if self.reach:
            writing[:, key + 2 + self.reach + 1] = OPEN
        for said, written in ((self.address.weight, self.change.weight), (self.address.bias, self.change.bias)):
            keys = said.unflatten(0, (self.heads, -1))[:, :key]
            added = written.unflatten(0, (self.num_writes, 2, key))[:, 1]
            for i in range(self.num_writes):
                added[i] = keys[i % self.num_reads]

    def initial(self, *batch: int) -> NTMState:
        return NTMState(weights=focused(self.output.weight, *batch, self.heads, self.rows), **self.blank(*batch))

    def step(
        self, read: Float[Tensor, "*batch gates"], state: NTMState
    ) -> tuple[Float[Tensor, "*batch features"], NTMState]:
        h, c = self.control(read, state)
        weights, reads = self._look(h, state)
        writing = weights[..., self.num_reads :, :]
        erase, add = self.change(h).unflatten(-1, (self.num_writes, -1)).split(self.width, dim=-1)
        memory = write(state.memory, writing, torch.sigmoid(erase), torch.tanh(add))
        return torch.cat([h, reads.flatten(-2)], dim=-1), NTMState(h, c, reads, weights, memory)

    def recall(self, h: Float[Tensor, "num controller"], state: NTMState) -> Float[Tensor, "num num_reads width"]:
        return self._look(h, state)[-1]

    def _look(
        self, h: Float[Tensor, "*batch controller"], state: NTMState
    ) -> tuple[Float[Tensor, "*batch heads rows"], Float[Tensor, "*batch num_reads width"]]:
        """Where the heads go, and what is read there."""
        weights = self.weights_after(h, state)
        return weights, weights[..., : self.num_reads, :] @ state.memory

    def weights_after(
        self, h: Float[Tensor, "*batch controller"], state: NTMState
    ) -> Float[Tensor, "*batch heads rows"]:
        """Where the heads go from where they were."""
        said = self.address(h).unflatten(-1, (self.heads, -1))
        keys, strengths, gates, shifts, powers = said.split(self.sizes, dim=-1)
        found = content(keys, F.softplus(strengths), state.memory)
        kept = torch.lerp(state.weights, found, torch.sigmoid(gates))
        return sharpen(shift(kept, torch.softmax(shifts, dim=-1)), 1 + F.softplus(powers))

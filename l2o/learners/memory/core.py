"""What all memories share: a controller in a loop over time, whose state is a value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from l2o.configured import Configured
from l2o.learners.lstm_cell import LSTMCell

INITIAL = 1e-6
"""Every number of a fresh memory (Collier and Beel, 2018, https://arxiv.org/abs/1807.08518)."""

SHARP = 20.0
"""What a controller says for the strength of looking by content where it is to find what is most like a key."""

OPEN = 4.0
"""What it says for a gate that is open, .98 after the sigmoid; shut with a minus."""


class MemoryCore(Configured, ABC):
    """An LSTM that reads and writes a memory; maps sequences to sequences.

    A step is a pure function of input and state. The state is a NamedTuple of tensors, all with the batch axes first
    (any number of them, or none).

    Arguments of every core:
        inputs: numbers in an input.
        outputs: numbers in an output.
        controller: units of the LSTM.
        rows: of the memory.
        width: of a row.
        num_reads: read heads.
    """

    State: ClassVar[Any]
    """The NamedTuple of its state."""

    def __init__(self, inputs: int, outputs: int, controller: int, rows: int, width: int, num_reads: int) -> None:
        super().__init__()
        given = {"inputs": inputs, "outputs": outputs, "controller": controller, "rows": rows, "width": width}
        for name, number in (given | {"num_reads": num_reads}).items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1, or nothing could pass; got {number}.")
        self.inputs, self.outputs, self.controller = inputs, outputs, controller
        self.rows, self.width, self.num_reads = rows, width, num_reads
        self.cell = LSTMCell(inputs, controller + num_reads * width, controller)
        self.output = nn.Linear(controller + num_reads * width, outputs)

    @abstractmethod
    def initial(self, *batch: int) -> Any:
        """The state before the first step."""

    @abstractmethod
    def step(self, read: Float[Tensor, "*batch gates"], state: Any) -> tuple[Float[Tensor, "*batch features"], Any]:
        """What the output is made of (the controller's state and what was read), and the next state.

        Arguments:
            read: what an input says to the controller's gates, see `LSTMCell.read`.
        """

    @abstractmethod
    def recall(self, h: Float[Tensor, "num controller"], state: Any) -> Float[Tensor, "num num_reads width"]:
        """What is read where nothing is written, for many outputs of the controller that find the same state.

        Arguments:
            state: without batch axes.
        """

    def answer(self, x: Float[Tensor, "num inputs"], state: Any) -> Float[Tensor, "num outputs"]:
        """The next output for each of many inputs, as if it were the only one; nothing is written.

        Where a core reads before it writes, this is what `unroll` says to one more input.

        Arguments:
            state: without batch axes; it is left as it is.

        Raises:
            ValueError: as `unroll`.
        """
        self._check(x)
        h, _ = self.control(self.cell.read(x), state)
        return self.output(torch.cat([h, self.recall(h, state).flatten(-2)], dim=-1))

    def unroll(
        self, x: Float[Tensor, "*batch time inputs"], state: Any = None
    ) -> tuple[Float[Tensor, "*batch time outputs"], Any]:
        """Outputs of a sequence and the state at its end; from the initial state, if no other is given.

        Raises:
            ValueError: inputs of another size than the core was made for.
        """
        self._check(x)
        state = self.initial(*x.shape[:-2]) if state is None else state
        features = []
        # time first: all steps are alike in memory, for whatever compiles them, whatever the length
        for read in self.cell.read(x).movedim(-2, 0).contiguous():
            feature, state = self.step(read, state)
            features.append(feature)
        return self.output(torch.stack(features, dim=-2)), state

    def forward(self, x: Float[Tensor, "*batch time inputs"]) -> Float[Tensor, "*batch time outputs"]:
        return self.unroll(x)[0]

    def _check(self, x: Tensor) -> None:
        if x.shape[-1] != self.inputs:
            raise ValueError(f"inputs must be of {self.inputs} numbers, as the core was made; got {x.shape[-1]}.")

    def control(
        self, read: Float[Tensor, "*batch gates"], state: Any
    ) -> tuple[Float[Tensor, "*batch controller"], Float[Tensor, "*batch controller"]]:
        """The controller's next output and memory; it sees what was read before."""
        return self.cell(read, torch.cat([state.h, state.reads.flatten(-2)], dim=-1), state.c)

    def blank(self, *batch: int) -> dict[str, Tensor]:
        """What every initial state has: a controller and reads of zeros, a memory of a constant."""
        like = self.output.weight
        return {
            "h": like.new_zeros(*batch, self.controller),
            "c": like.new_zeros(*batch, self.controller),
            "reads": like.new_zeros(*batch, self.num_reads, self.width),
            "memory": like.new_full((*batch, self.rows, self.width), INITIAL),
        }

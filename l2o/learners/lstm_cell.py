"""A cell of long short-term memory (Hochreiter and Schmidhuber, 1997), for learners that read in turn."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from l2o.rules.lstm_reference import pass_gates


class LSTMCell(nn.Module):
    """An LSTM cell in plain operations, because nn.LSTMCell cannot be vmapped.

    Arguments:
        inputs: numbers in an input.
        recurrent: numbers that come back at the next step.
        size: numbers in the state.
    """

    def __init__(self, inputs: int, recurrent: int, size: int) -> None:
        super().__init__()
        self.inputs, self.recurrent = nn.Linear(inputs, 4 * size), nn.Linear(recurrent, 4 * size, bias=False)

    def read(self, x: Float[Tensor, "*n inputs"]) -> Float[Tensor, "*n gates"]:
        """What inputs say to the gates; all at once, because it does not depend on the state."""
        return F.linear(x, self.inputs.weight.to(x.dtype), self.inputs.bias.to(x.dtype))

    def forward(
        self, read: Float[Tensor, "*#n gates"], h: Float[Tensor, "*#n recurrent"], c: Float[Tensor, "*#n size"]
    ) -> tuple[Float[Tensor, "*n size"], Float[Tensor, "*n size"]]:
        return pass_gates(read + F.linear(h, self.recurrent.weight.to(h.dtype)), c, dim=-1)

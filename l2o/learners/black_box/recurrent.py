"""Recurrent meta-learners: to learn is to change a state (Hochreiter et al., 2001; Santoro et al., 2016).

Hochreiter et al.: Learning to learn using gradient descent, https://doi.org/10.1007/3-540-44668-0_13; Santoro et al.:
https://arxiv.org/abs/1605.06065, section 4, whose LSTM is the baseline of memory-augmented networks.
"""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from l2o.learners.answers import answers, check_outputs, features_of
from l2o.learners.base import Fast, Learner, loss_of
from l2o.learners.lstm_cell import LSTMCell
from l2o.tasks.episodes import Examples

State = tuple[Tensor, ...]


class RecurrentLearner(Learner):
    """Reads the support set as a sequence of (embedding, answer); a query is one more step, with no answer.

        s_i = cell([z_i, y_i], s_{i-1}),   scores of x = head([cell([z(x), 0], s_n), z(x)])

    All queries start from the same state, the last one of the support set, and leave it as it is; the fast variables
    are this state. Labels are read as rows of zeros and a one, targets as they are. The order of the support set
    matters.

    Arguments:
        encoder: maps inputs (n, *features) to embeddings (n, dim).
        outputs: classes in an episode, or numbers in a target.
        cell: lstm (Hochreiter and Schmidhuber, 1997) or gru (Cho et al., 2014).
        size: numbers in the state of a layer.
        num_layers: layers, each of which reads the states of the one below.
        hidden: units of a relu layer between state and scores; 0 for none.
        num_features: numbers in an embedding; None for the encoder's `num_features`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        outputs: int,
        cell: str = "lstm",
        size: int = 256,
        num_layers: int = 1,
        hidden: int = 0,
        num_features: int | None = None,
    ) -> None:
        super().__init__()
        if cell not in ("lstm", "gru"):
            raise ValueError(f"cell must be lstm or gru; got {cell!r}.")
        if size < 1 or num_layers < 1:
            raise ValueError(
                f"size and num_layers must be at least 1, or nothing is remembered; got size={size}, "
                f"num_layers={num_layers}."
            )
        self.encoder, self.outputs = encoder, check_outputs(outputs)
        dim, make = features_of(encoder, num_features), LSTMLayer if cell == "lstm" else GRULayer
        self.layers = nn.ModuleList(make(size if i else dim + outputs, size) for i in range(num_layers))
        self.hidden = nn.Linear(size + dim, hidden) if hidden else None
        self.head = nn.Linear(hidden or size + dim, outputs)

    def start(self, support: Examples) -> Fast:
        z = self.encoder(support.x)
        inputs, fast = torch.cat([z, answers(support.y, self.outputs, z)], dim=-1), Fast()
        for i, layer in enumerate(self._layers()):
            inputs, last = layer.read(inputs)
            fast |= {f"{name}{i}": value for name, value in zip(layer.names, last, strict=True)}
        return fast

    def inner_loss(self, fast: Fast, support: Examples) -> Float[Tensor, ""]:
        return loss_of(self.predict(fast, support.x), support.y)

    def predict(self, fast: Fast, x: Shaped[Tensor, " n *features"]) -> Float[Tensor, "n outputs"]:
        z = self.encoder(x)
        inputs = torch.cat([z, z.new_zeros(len(z), self.outputs)], dim=-1)
        for i, layer in enumerate(self._layers()):
            state = tuple(fast[f"{name}{i}"] for name in layer.names)
            inputs, *_ = layer.step(layer.gates(inputs), state)
        features = torch.cat([inputs, z], dim=-1)
        return self.head(features if self.hidden is None else torch.relu(self.hidden(features)))

    def _layers(self) -> list[LSTMLayer | GRULayer]:
        return cast("list[LSTMLayer | GRULayer]", list(self.layers))


class LSTMLayer(nn.Module):
    """A layer of long short-term memory; the state is (output, memory).

    Arguments:
        inputs: numbers in an input.
        size: numbers in the output, and in the memory.
    """

    names = ("h", "c")

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.cell, self.size = LSTMCell(inputs, size, size), size

    def gates(self, x: Float[Tensor, "*n inputs"]) -> Float[Tensor, "*n gates"]:
        """What inputs say to the gates; all at once, because it does not depend on the state."""
        return self.cell.read(x)

    def step(self, gates: Float[Tensor, "*n gates"], state: State) -> State:
        """The next state; one state may serve many inputs."""
        h, c = state
        return self.cell(gates, h, c)

    def read(self, x: Float[Tensor, "n inputs"]) -> tuple[Float[Tensor, "n size"], State]:
        """The outputs of a sequence, and the last state."""
        return _run(self, x)


class GRULayer(nn.Module):
    """A layer of gated recurrent units, as torch computes them: the reset gate acts behind the product.

    Arguments:
        inputs: numbers in an input.
        size: numbers in the state.
    """

    names = ("h",)

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.inputs, self.recurrent = nn.Linear(inputs, 3 * size), nn.Linear(size, 3 * size)

    def gates(self, x: Float[Tensor, "*n inputs"]) -> Float[Tensor, "*n gates"]:
        """As of `LSTMLayer`."""
        return self.inputs(x)

    def step(self, gates: Float[Tensor, "*n gates"], state: State) -> State:
        """As of `LSTMLayer`."""
        (h,) = state
        r_in, u_in, n_in = gates.chunk(3, dim=-1)
        r, u, n = self.recurrent(h).chunk(3, dim=-1)
        update = torch.sigmoid(u_in + u)
        return (update * h + (1 - update) * torch.tanh(n_in + torch.sigmoid(r_in + r) * n),)

    def read(self, x: Float[Tensor, "n inputs"]) -> tuple[Float[Tensor, "n size"], State]:
        """As of `LSTMLayer`."""
        return _run(self, x)


def _run(layer: LSTMLayer | GRULayer, x: Float[Tensor, "n inputs"]) -> tuple[Float[Tensor, "n size"], State]:
    state: State = tuple(x.new_zeros(layer.size) for _ in layer.names)
    outputs = []
    for gates in layer.gates(x).unbind():
        state = layer.step(gates, state)
        outputs.append(state[0])
    return torch.stack(outputs), state

"""Recurrent character models in plain operations (Elman, 1990; Hochreiter and Schmidhuber, 1997; Cho et al., 2014)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor

from l2o.tasks.base import TaskFamily
from l2o.tasks.data import Text, shakespeare
from l2o.tasks.nets import init_weight
from l2o.tasks.supervised import Classifier, OnText, draw_structure, log_uniform
from l2o.types import Params

Cell: TypeAlias = Literal["elman", "gru", "lstm"]

GATES: dict[Cell, int] = {"elman": 1, "gru": 3, "lstm": 4}


@dataclass(frozen=True)
class RecurrentLanguageModel(Classifier, OnText):
    """Predicts each next character from those before it in the window.

    Arguments:
        data, batch_size, length: see `OnText`.
        embedding: size of a character's vector.
        hidden: size of the state.
        cell: how the state moves.
        init_scale: factor on all initial weights.
    """

    embedding: int = 16
    hidden: int = 32
    cell: Cell = "gru"
    init_scale: float | Float[Tensor, ""] = 1.0

    def init(self, generator: Generator) -> Params:
        scale, gates = self.init_scale, GATES[self.cell] * self.hidden
        bias = torch.zeros(gates)
        if self.cell == "lstm":
            bias[self.hidden : 2 * self.hidden] = 1.0  # remember at first
        return {
            "embedding": torch.randn(self.data.num_classes, self.embedding, generator=generator) * scale,
            "input.weight": init_weight(generator, gates, self.embedding, gain=scale),
            "input.bias": bias,
            "state.weight": init_weight(generator, gates, self.hidden, gain=scale),
            "output.weight": init_weight(generator, self.data.num_classes, self.hidden, gain=scale),
            "output.bias": torch.zeros(self.data.num_classes),
        }

    def logits(self, params: Params, x: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length classes"]:
        inputs = F.linear(params["embedding"][x], params["input.weight"], params["input.bias"])
        hidden = inputs.new_zeros(*x.shape[:-1], self.hidden)
        state, states = (hidden, hidden), []
        for t in range(x.shape[-1]):
            state = advance(self.cell, inputs[:, t], params["state.weight"], state)
            states.append(state[0])
        return F.linear(torch.stack(states, dim=1), params["output.weight"], params["output.bias"])


def advance(
    cell: Cell,
    inputs: Float[Tensor, "batch gates"],
    weight: Float[Tensor, "gates hidden"],
    state: tuple[Float[Tensor, "batch hidden"], Float[Tensor, "batch hidden"]],
) -> tuple[Float[Tensor, "batch hidden"], Float[Tensor, "batch hidden"]]:
    """The next (output, memory) of a cell; only the LSTM has a memory apart from its output."""
    h, c = state
    recurrent = F.linear(h, weight)
    if cell == "elman":
        return torch.tanh(inputs + recurrent), c
    if cell == "gru":
        (zi, ri, ni), (zh, rh, nh) = inputs.chunk(3, dim=-1), recurrent.chunk(3, dim=-1)
        z = torch.sigmoid(zi + zh)
        candidate = torch.tanh(ni + torch.sigmoid(ri + rh) * nh)
        return z * h + (1 - z) * candidate, c
    i, f, g, o = (inputs + recurrent).chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


@dataclass(frozen=True)
class RecurrentFamily(TaskFamily):
    """Random recurrent character models. Every tuple of options is a structural choice that `fix` makes.

    Arguments:
        hidden: sizes of the state.
        embedding: sizes of a character's vector.
        cell: cells.
        length: characters in a window.
        batch_size: windows in a batch.
        init_scale: range of the log-uniform factor on initial weights, drawn for each task.
        sources: texts.
    """

    hidden: tuple[int, ...] = (32,)
    embedding: tuple[int, ...] = (16,)
    cell: tuple[Cell, ...] = ("elman", "gru", "lstm")
    length: tuple[int, ...] = (16,)
    batch_size: tuple[int, ...] = (32,)
    init_scale: tuple[float, float] = (1.0, 1.0)
    sources: tuple[Text, ...] = field(default_factory=lambda: (shakespeare(),))

    def fix(self, generator: Generator) -> RecurrentFamily:
        return draw_structure(self, generator, "hidden", "embedding", "cell", "length", "batch_size", "sources")

    def sample(self, generator: Generator) -> RecurrentLanguageModel:
        fixed = self.fix(generator)
        return RecurrentLanguageModel(
            data=fixed.sources[0],
            batch_size=fixed.batch_size[0],
            length=fixed.length[0],
            embedding=fixed.embedding[0],
            hidden=fixed.hidden[0],
            cell=fixed.cell[0],
            init_scale=log_uniform(self.init_scale, generator),
        )

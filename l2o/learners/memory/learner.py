"""Any memory as a learner: it writes the support set down, then answers queries; or it learns as examples stream by."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from l2o.configured import Configured
from l2o.learners.answers import answers
from l2o.learners.base import Fast, Learner, loss_of
from l2o.learners.memory.core import MemoryCore
from l2o.tasks.episodes import Examples

LABEL = "label"
"""The fast variable that holds the last label where labels come a step late."""


class MemoryLearner(Learner):
    """The fast variables are the state of a memory that has seen the support set, row after row.

    Each row comes with its label, and a query without; or, `late`, each with the label of the row before it, and a
    query with that of the last row (Santoro et al., 2016, section 2). Every query finds the same state, and writes
    nothing. Labels come as one-hot vectors, targets as they are. The order of the rows may matter.

    Arguments:
        encoder: maps inputs (n, *features) to embeddings (n, dim).
        core: `NTM`, `DNC` or `MANN` with as many outputs as there are classes, or numbers in a target, and with
            `inputs_for(dim, outputs, late)` inputs.
        late: whether labels come a step late.
    """

    def __init__(self, encoder: nn.Module, core: MemoryCore, late: bool = False) -> None:
        super().__init__()
        self.encoder, self.core, self.late = encoder, core, late

    def start(self, support: Examples) -> Fast:
        z = self.encoder(support.x)
        labels = answers(support.y, self.core.outputs, z)
        given = torch.cat([torch.zeros_like(labels[:1]), labels[:-1]]) if self.late else labels
        _, state = self.core.unroll(self._inputs(z, given, known=True))
        return dict(state._asdict()) | ({LABEL: labels[-1]} if self.late else {})

    def inner_loss(self, fast: Fast, support: Examples) -> Float[Tensor, ""]:
        return loss_of(self.predict(fast, support.x), support.y)

    def predict(self, fast: Fast, x: Shaped[Tensor, " n *features"]) -> Float[Tensor, "n outputs"]:
        z = self.encoder(x)
        given = fast[LABEL].expand(len(z), -1) if self.late else z.new_zeros(len(z), self.core.outputs)
        state = self.core.State(**{name: value for name, value in fast.items() if name != LABEL})
        return self.core.answer(self._inputs(z, given, known=False), state)

    def _inputs(
        self, z: Float[Tensor, "n dim"], labels: Float[Tensor, "n outputs"], known: bool
    ) -> Float[Tensor, "n inputs"]:
        flag = [] if self.late else [torch.full_like(z[:, :1], float(known))]
        inputs = torch.cat([z, labels, *flag], dim=-1)
        if inputs.shape[-1] != self.core.inputs:
            raise ValueError(
                f"the core must take {inputs.shape[-1]} inputs, which are an embedding of {z.shape[-1]}, a label of "
                f"{labels.shape[-1]}{'' if self.late else ' and whether it is known'}; it takes {self.core.inputs}."
            )
        return inputs


def inputs_for(dim: int, outputs: int, late: bool = False) -> int:
    """The inputs of a core behind an embedding of `dim` numbers: label and embedding, and whether it is known."""
    return dim + outputs + (not late)


class OnlineLearner(Configured):
    """The same learner on a stream: at every step an input and the label of the one before, and an answer.

    Each input is written down too; a DNC does that before it answers.

    Maps (batch, time, *features) and (batch, time, outputs) to scores (batch, time, outputs); for `LabelShiftedStream`.

    Arguments:
        learner: a `MemoryLearner` whose labels come late.
    """

    def __init__(self, learner: MemoryLearner) -> None:
        super().__init__()
        if not learner.late:
            raise ValueError(
                "labels must come late in a stream, or they would be seen before the answer; got late=False."
            )
        self.learner = learner

    def forward(
        self, x: Shaped[Tensor, "batch time *features"], before: Float[Tensor, "batch time outputs"]
    ) -> Float[Tensor, "batch time outputs"]:
        z = self.learner.encoder(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.learner.core(torch.cat([z, before.to(z)], dim=-1))

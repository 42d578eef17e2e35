"""How parameters move: the interface of every update rule, hand-designed or learned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from l2o.types import Params


class OptState(NamedTuple):
    """State of any rule: one type, so the drop-in, checkpoints and Ray need not know the rule.

    step: number of updates made so far.
    slots: per parameter name, the rule's tensors for that parameter.
    shared: tensors that belong to the whole network (a loss average, the length of the run).
    """

    step: Int[Tensor, ""]
    slots: dict[str, dict[str, Tensor]]
    shared: dict[str, Tensor]


class UpdateRule(nn.Module, ABC):
    """A pure map (gradients, state, parameters, loss) -> (updates, state); its own parameters are theta.

    Updates are added: `params[name] + updates[name]`. Parameters may have any shape; a rule treats every tensor
    alike whatever its name, so names and their order carry no meaning. Under `torch.func.vmap` all arguments gain a
    leading axis of tasks or particles. A fresh rule is harmless: no step is larger than `nominal_lr` times a few.

    Class attributes:
        needs_loss: whether `forward` makes use of the loss (it must work without).
        nominal_lr: the step size that the drop-in's `lr=1.0` stands for. Weight decay `w` of the drop-in shrinks a
            parameter by `lr * nominal_lr * w` a step, as AdamW does at `nominal_lr`.
    """

    needs_loss: bool = False
    nominal_lr: float = 1e-3

    @abstractmethod
    def init(self, params: Params, total_steps: int | Tensor | None = None) -> OptState:
        """State before the first step.

        Arguments:
            total_steps: planned length of the run, for rules that follow a schedule; None if unknown.
        """

    @abstractmethod
    def forward(
        self, grads: Params, state: OptState, params: Params, loss: Float[Tensor, ""] | None = None
    ) -> tuple[Params, OptState]:
        """One step: updates (same names and shapes as `params`) and the next state."""


def zero_step(params: Params) -> Int[Tensor, ""]:
    """The step counter before the first step, on the parameters' device."""
    return torch.zeros((), dtype=torch.int64, device=next(iter(params.values())).device)

"""A rule whose whole step is multiplied by a learnable rate."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from l2o.rules.base import OptState, UpdateRule
from l2o.types import Params


class Scaled(UpdateRule):
    """The wrapped rule's updates times exp(log_lr): what `lr` does in the drop-in, as a parameter.

    Arguments:
        rule: the rule to wrap.
        lr: initial multiplier, positive.
    """

    def __init__(self, rule: UpdateRule, lr: float = 1.0) -> None:
        super().__init__()
        if not lr > 0:
            raise ValueError(f"lr must be positive, because its logarithm is what is learned; got {lr}.")
        self.rule = rule
        self.log_lr = nn.Parameter(torch.tensor(math.log(lr)))
        self.needs_loss, self.large_slots, self.defers = rule.needs_loss, rule.large_slots, rule.defers

    @property
    def nominal_lr(self) -> float:  # type: ignore[override]
        """The wrapped rule's."""
        return self.rule.nominal_lr

    def init(self, params: Params, total_steps: int | Tensor | None = None) -> OptState:
        return self.rule.init(params, total_steps)

    def forward(
        self, grads: Params, state: OptState, params: Params, loss: Float[Tensor, ""] | None = None
    ) -> tuple[Params, OptState]:
        updates, state = self.rule(grads, state, params, loss)
        scale = self.log_lr.exp()
        return {name: update * scale.to(update.dtype) for name, update in updates.items()}, state

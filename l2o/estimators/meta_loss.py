"""What a window of inner training is worth: the meta-loss of each lane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from l2o.inner_loop import Lanes
from l2o.types import Batch, Params

Reduction = Literal["mean", "tail", "final", "validation"]

TAIL = 0.2
"""The last part of a window, of which `tail` is the mean."""


@dataclass(frozen=True)
class MetaLoss:
    """Turns a window's losses into one number a lane.

    Arguments:
        reduction: `mean` averages the training losses of the window's steps; `tail` those of the last fifth of a
            problem's last window, and is zero for windows in mid-problem; so is `final`, the training loss, on a fresh
            batch, of the parameters at the end of the problem; `validation` is the validation loss of the parameters
            at the end of every window.
        relative: divide by the loss of the problem's initial parameters, so that all problems weigh alike.
        bound: losses above this (after `relative`), or not finite, count as `bound`, so that one exploding
            problem does not drown the others; None leaves them.
        floor: losses below this (after `relative`) count as `floor`: from little to nothing is worth nothing.
        log: take the logarithm, so that halving a loss is worth the same early and late in training; for losses
            that are positive.
    """

    reduction: Reduction = "mean"
    relative: bool = False
    bound: float | None = None
    log: bool = False
    floor: float | None = None

    def __post_init__(self) -> None:
        if self.reduction not in get_args(Reduction):
            raise ValueError(f"reduction must be one of {', '.join(get_args(Reduction))}; got {self.reduction!r}.")
        if self.bound is not None and self.floor is not None and not self.floor < self.bound:
            raise ValueError(f"floor must be below bound, or all losses are one; got {self.floor} and {self.bound}.")

    def end_batch(self, lanes: Lanes, generator: Generator) -> Batch:
        """The batch on which parameters at the end of a window are judged, where the reduction asks for one."""
        if self.reduction == "validation":
            return lanes.sample_validation_batch(generator)
        if self.reduction == "final":
            return lanes.sample_batches(generator, 1)[0]
        return None

    def __call__(
        self,
        lanes: Lanes,
        losses: Float[Tensor, "steps lanes"],
        params: Params,
        end_batch: Batch,
        initial: Float[Tensor, " lanes"],
        last: Bool[Tensor, " lanes"],
    ) -> Float[Tensor, " lanes"]:
        """The meta-loss of each lane; `initial` is the loss its problem began with, `last` whether it ends here."""
        if self.reduction == "mean":
            values = self._bounded(losses, initial).mean(dim=0)
        elif self.reduction == "tail":
            values = self._bounded(losses[-max(1, round(TAIL * len(losses))) :], initial).mean(dim=0)
        else:
            values = self._bounded(lanes.losses(params, end_batch), initial)
        return torch.where(last, values, 0.0) if self.reduction in ("final", "tail") else values

    def _bounded(self, losses: Tensor, initial: Tensor) -> Tensor:
        if self.relative:
            losses = losses / initial.abs().clamp(min=1e-8)
        if self.bound is not None:
            losses = torch.where(losses.isfinite(), losses, self.bound).clamp(max=self.bound)
        if self.floor is not None:
            losses = losses.clamp(min=self.floor)
        return losses.clamp(min=1e-10).log() if self.log else losses

"""What keeps a run from ruin: numbers that are not finite are mended, a watchdog takes over when training diverges."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from l2o.optim.processes import local
from l2o.rules import AdamW
from l2o.rules.base import UpdateRule, check

FALLBACK = "fallback_lr"
"""What groups have where the watchdog has fallen back: AdamW's learning rate. So it is saved and loaded with them."""


@dataclass(frozen=True)
class Watchdog:
    """Falls back to AdamW, for the rest of the run, when training diverges.

    It diverges when `patience` steps in a row were not finite, or had a loss further above that of the first ten
    steps than `factor - 1` times its size. The parameters then go back to the last copy of them, which is made every
    `snapshot_every` steps while no loss is that high, and AdamW goes on from there. A resumed run takes the loss it
    resumes with for the first.

    Arguments:
        factor: how many times its beginning a positive loss may reach, above 1.
        patience: steps in a row.
        lr: AdamW's learning rate; the optimizer's own `lr`, which schedules write to, multiplies it.
        snapshot_every: steps from copy to copy of the parameters; 0 makes none, and nothing goes back.
    """

    factor: float = 2.0
    patience: int = 10
    lr: float = 1e-3
    snapshot_every: int = 100

    def __post_init__(self) -> None:
        check(
            1.0 < self.factor < math.inf, "factor must be above 1, or a run fails where it starts", factor=self.factor
        )
        check(self.patience >= 1, "patience must be at least one step", patience=self.patience)
        check(0.0 < self.lr < math.inf, "lr must be positive and finite, AdamW's", lr=self.lr)
        check(self.snapshot_every >= 0, "snapshot_every must not be negative", snapshot_every=self.snapshot_every)


class Watch:
    """A watchdog on duty: what it has seen of one run."""

    FIRST = 10
    """Losses that make the beginning."""

    def __init__(self, dog: Watchdog) -> None:
        self.dog = dog
        self._first: list[float] = []
        self._bad_in_a_row = 0
        self._steps = 0
        self._copy: list[tuple[Tensor, Tensor]] = []

    def sees(self, loss: float | None, refused: bool, params: Iterable[Tensor]) -> bool:
        """Whether training has diverged, after one more step.

        Arguments:
            loss: of the step; None if it was not given.
            refused: the step was not finite.
            params: what would have to go back.
        """
        known = loss is not None and math.isfinite(loss)
        bad = refused or (loss is not None and not (known and self._is_low(loss)))
        if known and not bad and len(self._first) < self.FIRST:
            self._first.append(loss)  # type: ignore[arg-type]
        self._bad_in_a_row = self._bad_in_a_row + 1 if bad else 0
        if self.dog.snapshot_every and not bad and self._steps % self.dog.snapshot_every == 0:
            self._copy = [(p, local(p.detach()).clone()) for p in params]
        self._steps += not bad
        return self._bad_in_a_row >= self.dog.patience

    @torch.no_grad()
    def go_back(self) -> bool:
        """Give the parameters the values that they had when all was well; whether there is a copy of these."""
        for p, kept in self._copy:
            local(p).copy_(kept)
        return bool(self._copy)

    def _is_low(self, loss: float) -> bool:
        if not self._first:
            return True
        start = sum(self._first) / len(self._first)
        return loss <= start + (self.dog.factor - 1) * abs(start)


def acting_rule(rule: UpdateRule, param_groups: list[dict[str, Any]]) -> UpdateRule:
    """The rule, or AdamW where the groups say that it has been fallen back to."""
    lr = next((group[FALLBACK] for group in param_groups if FALLBACK in group), None)
    return rule if lr is None else AdamW(lr=lr)


def mended(x: Tensor) -> Tensor:
    """A tensor with 0 where it has nan, and its largest finite magnitude where it is infinite."""
    if x.isfinite().all():
        return x
    most = torch.where(x.isfinite(), x.abs(), 0.0).amax()
    return torch.where(x.isnan(), 0.0, x.clamp(-most, most))

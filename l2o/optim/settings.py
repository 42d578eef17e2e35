"""The arguments of LearnedOptimizer: checked, and a rule found by its name."""

from __future__ import annotations

import math
import os
import warnings
from typing import Any

import torch
from torch import Tensor

from l2o.load import is_untrained, load
from l2o.rules.base import UpdateRule
from l2o.types import made

DEFAULT = "default"
"""The name of the optimizer that is taken where no rule is given."""
NONFINITE = ("skip", "clip", "raise", "ignore")
"""What may be done about steps that are not finite."""

OF_OPTIMIZER: dict[str, Any] = {
    "total_steps": None,
    "nonfinite": "skip",
    "compile": False,
    "graph": False,
    "state_dtype": None,
    "average_loss": True,
    "watchdog": None,
    "skipped_steps": 0,
    "clipped_steps": 0,
}
"""What copies and pickles keep beside state and groups, and what older ones are taken to have."""
OF_GROUP: dict[str, Any] = {"lr": 1.0, "weight_decay": 0.0, "maximize": False}
"""What groups of older state dicts are taken to have."""


def check_group(lr: float | Tensor, weight_decay: float) -> None:
    """Raise a ValueError unless a group can be trained so."""
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"Tensor lr must be 1-element, because it multiplies every step; got {lr.numel()} elements.")
    if not 0.0 <= lr < math.inf:
        raise ValueError(f"lr must be finite and not negative (`maximize=True` ascends); got {lr}.")
    if not 0.0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay must be finite and not negative, because it shrinks; got {weight_decay}.")


def check_arguments(
    lr: float | Tensor, weight_decay: float, total_steps: int | None, nonfinite: str, state_dtype: torch.dtype | None
) -> None:
    """Raise a ValueError unless an optimizer can be made so."""
    check_group(lr, weight_decay)
    if total_steps is not None and (not isinstance(total_steps, int) or total_steps < 1):
        raise ValueError(
            f"total_steps must be a positive integer, the length of the run, or None; got {total_steps!r}."
        )
    if nonfinite not in NONFINITE:
        raise ValueError(f"nonfinite must be one of {', '.join(map(repr, NONFINITE))}; got {nonfinite!r}.")
    if state_dtype not in (None, torch.bfloat16):
        raise ValueError(
            "state_dtype must be torch.bfloat16, which has float32's range, or None for the precision that is computed "
            f"with; got {state_dtype!r}."
        )


def check_settings(param_groups: list[dict[str, Any]]) -> None:
    """Schedules write to groups; numbers only, because a look at a tensor may wait for its device."""
    for i, group in enumerate(param_groups):
        for key in ("lr", "weight_decay"):
            value = group[key]
            if isinstance(value, float) and not -math.inf < value < math.inf:
                raise ValueError(f"{key} must be finite, or it would ruin the parameters; group {i} has {value}.")


def load_rule(name_or_path: str | os.PathLike[str]) -> UpdateRule:
    """The rule that an optimizer is given by name; a warning says so if nobody has trained it."""
    rule = made(lambda: load(name_or_path), 0)  # making an optimizer draws none of the user's random numbers
    if not isinstance(rule, UpdateRule):
        raise ValueError(f"rule must be an update rule, which moves parameters; {name_or_path} is a {type(rule)}.")
    if is_untrained(name_or_path):
        warnings.warn(
            f"rule={str(name_or_path)!r} is a fresh {type(rule).__name__} that nobody has trained: expect no progress.",
            UserWarning,
            stacklevel=3,
        )
    return rule

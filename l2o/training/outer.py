"""The outer optimizer of a run, by name, its rate by step, and the settings that follow from its kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from l2o.optim import LearnedOptimizer

OF_RULES: dict[str, Any] = {"lr": 1.0, "schedule": "constant", "max_grad_norm": 0.0}
"""Of an update rule as outer optimizer: it chooses its rates itself, and is to see gradients as they are."""


def torch_class(name: str) -> type[Optimizer] | None:
    """The class of torch.optim of that name; None where the name is that of an update rule, or nothing's."""
    kind = getattr(torch.optim, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, Optimizer) else None


def outer_defaults(name: str, usual: Mapping[str, Any]) -> dict[str, Any]:
    """Settings where nothing is said: the usual ones, in whose place an update rule has its own."""
    own = {} if torch_class(name) else {key: value for key, value in OF_RULES.items() if key in usual}
    return {**usual, **own}


def outer_optimizer(module: nn.Module, name: str, lr: float, total_steps: int | None = None) -> Optimizer:
    """The optimizer of a module's trained parameters: a class of torch.optim, or an update rule by name or path.

    Raises:
        ValueError: neither.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    kind = torch_class(name)
    if kind is not None:
        # a third of the time on few numbers
        fused: dict[str, Any] = {"fused": True} if "fused" in signature(kind).parameters else {}
        return kind(trained, lr=lr, **fused)  # type: ignore[call-arg]
    path = Path(name).expanduser()
    if path.exists():
        return LearnedOptimizer(trained, path, lr=lr, total_steps=total_steps)
    try:
        return LearnedOptimizer(trained, name, lr=lr, total_steps=total_steps)
    except (FileNotFoundError, ImportError, ValueError) as error:
        raise ValueError(
            "optimizer must be a class of torch.optim, or an update rule by its name ('default' is the one in the box) "
            f"or path; got {name!r}: {error}"
        ) from error


def rate_factor(kind: str, warmup: int, total: int, last: float = 0.1) -> Callable[[int], float]:
    """The outer learning rate's factor by step: linear warm-up, then constant, cosine, or linear.

    Arguments:
        kind: constant, cosine or linear.
        warmup: steps of warm-up.
        total: steps in all.
        last: what cosine and linear end at.
    """

    # a function: of a callable object LambdaLR would save the total, and a run that is resumed to go on for longer
    # would be left at the rate of its first end
    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if kind == "constant":
            return 1.0
        progress = min(1.0, (step - warmup) / max(1, total - warmup))
        left = 1 - progress if kind == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return last + (1 - last) * left

    return factor

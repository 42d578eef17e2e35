"""Learned optimizers for PyTorch, end to end: meta-train them, use them, let agents improve with them.

Everything here is imported at first use, so that `import l2o` alone costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from l2o.inner_loop import InnerLoop as InnerLoop
    from l2o.load import load as load
    from l2o.load import save as save
    from l2o.optim import LearnedOptimizer as LearnedOptimizer
    from l2o.optim import Watchdog as Watchdog
    from l2o.optim.watch import watch as watch
    from l2o.rules.base import OptState as OptState
    from l2o.rules.base import UpdateRule as UpdateRule
    from l2o.tasks.base import Task as Task
    from l2o.tasks.base import TaskFamily as TaskFamily
    from l2o.training.meta_trainer import MetaTrainer as MetaTrainer

    __version__: str

_HOMES = {
    "InnerLoop": "l2o.inner_loop",
    "LearnedOptimizer": "l2o.optim",
    "MetaTrainer": "l2o.training.meta_trainer",
    "OptState": "l2o.rules.base",
    "Task": "l2o.tasks.base",
    "TaskFamily": "l2o.tasks.base",
    "UpdateRule": "l2o.rules.base",
    "Watchdog": "l2o.optim",
    "save": "l2o.load",
    "watch": "l2o.optim.watch",
}

__all__ = [*_HOMES, "load"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "load":
        return importlib.import_module("l2o.load")  # a module that can be called like the function in it
    if name == "__version__":
        from importlib.metadata import version

        return version("l2o")
    raise AttributeError(f"module 'l2o' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})

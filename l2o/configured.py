"""Modules that remember how they were made, so that a file can hold them as class and arguments."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn


class Configured(nn.Module):
    """A module whose constructor's arguments are kept, so that no subclass has to do it.

    Attributes:
        config: the arguments, defaults filled in: `type(module)(**module.config)` is a fresh such module.
    """

    config: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Configured:
        """Note the arguments; copies and pickles restore the note with the other fields."""
        module = super().__new__(cls)
        bound = inspect.signature(cls.__init__).bind_partial(module, *args, **kwargs)
        bound.apply_defaults()
        _, *arguments = bound.arguments.items()  # without self
        object.__setattr__(module, "config", dict(arguments))
        return module

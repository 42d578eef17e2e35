"""Modules that remember how they were made, so that a file can hold them as class and arguments."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from torch import nn


class Configured(nn.Module):
    """A module whose constructor's arguments are kept, so that no subclass has to do it.

    Attributes:
        config: the arguments, defaults filled in: `type(module)(**module.config)` is a fresh such module (around the
            same ones, where an argument is a module itself).
    """

    config: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Configured:
        """Note the arguments; copies and pickles restore the note with the other fields."""
        module = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        try:
            bound = signature.bind_partial(module, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{cls.__name__}: {error}.") from None
        bound.apply_defaults()
        _, *arguments = bound.arguments.items()  # without self
        config: dict[str, Any] = {}
        for name, value in arguments:
            kind = signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL and value:
                raise TypeError(f"arguments of {cls.__name__} must have names, by which files hold them; got {value}.")
            if kind is inspect.Parameter.VAR_KEYWORD:
                config |= value
            elif kind is not inspect.Parameter.VAR_POSITIONAL:
                config[name] = value
        object.__setattr__(module, "config", config)
        return module

    def push_to_hub(self, name: str, run: Any = None, **how: Any) -> str:
        """Put the module on the Hugging Face Hub as `org/name`, see `l2o.training.model_card.push`."""
        return importlib.import_module("l2o.training.model_card").push(self, name, run, **how)

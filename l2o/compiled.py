"""`torch.compile` for functions of which a program makes many."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch


def compiled(fn: Callable[..., Any], fullgraph: bool = False) -> Callable[..., Any]:
    """A plain function or closure, compiled for the shapes it meets, on a code object of its own.

    The compiler counts its versions by code object and gives up after eight, so closures made by one `def`, one for
    each optimizer, say, must not share theirs.

    Arguments:
        fullgraph: fail where the function cannot be compiled as a whole.
    """
    assert isinstance(fn, FunctionType)
    own = FunctionType(fn.__code__.replace(), fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__)
    return torch.compile(own, fullgraph=fullgraph, dynamic=False)

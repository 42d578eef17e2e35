"""`torch.compile` for functions of which a program makes many."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch

MAX_PROGRAMS = 64
"""Inner steps that a process compiles, one a structure and way of use; each takes 5 to 60 seconds where no earlier run
has left it in torch's cache."""

_num_programs = 0


def compiled(fn: Callable[..., Any], fullgraph: bool = False, bounded: bool = False) -> Callable[..., Any]:
    """A plain function or closure, compiled for the shapes it meets, on a code object of its own.

    The compiler counts its versions by code object and gives up after eight, so closures made by one `def`, one for
    each optimizer, say, must not share theirs.

    Arguments:
        fullgraph: fail where the function cannot be compiled as a whole.
        bounded: of such functions no more than MAX_PROGRAMS are compiled, further ones stay as they are, with one
            warning: a family of tasks that never draws the same structure twice must not spend its time compiling.
    """
    global _num_programs
    assert isinstance(fn, FunctionType)
    _num_programs += bounded
    if bounded and _num_programs > MAX_PROGRAMS:
        if _num_programs == MAX_PROGRAMS + 1:
            warnings.warn(
                f"l2o compiles no more than {MAX_PROGRAMS} inner steps in a process and runs further ones as they are: "
                "draw tasks of fewer structures (widths, depths, batch sizes, ...) to have them all compiled.",
                RuntimeWarning,
                stacklevel=3,
            )
        return fn
    own = FunctionType(fn.__code__.replace(), fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__)
    return torch.compile(own, fullgraph=fullgraph, dynamic=False)


def compile_seconds() -> float:
    """What this process has spent on compiling so far; less where kept programs were found."""
    utils = sys.modules.get("torch._dynamo.utils")  # slow to import: if nobody has, nothing was compiled
    times = getattr(utils, "compilation_time_metrics", {})  # what torch._dynamo.utils.compile_times reports
    return float(sum(times.get("_compile.compile_inner", ())))

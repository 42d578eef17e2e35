"""`torch.compile` for functions of which a program makes many, and recordings, which need no compiler."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree

MAX_PROGRAMS = 64
"""Inner steps that a process compiles, one a structure and way of use; each takes 5 to 60 seconds where no earlier run
has left it in torch's cache."""

MAX_RECORDINGS = 16
"""Kinds of arguments for which a traced function is kept."""

TORCH_OWN = frozenset(vars(nn.Module())) - {"training"}
PLAIN = (bool, int, float, str, type(None))

T = TypeVar("T")

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


def traced(fn: Callable[..., T], modules: nn.Module) -> Callable[..., T]:
    """A function of trees of tensors, recorded for each kind of arguments and played back, without a graph of its own.

    What is played back are the operations on tensors alone: Python, autograd and functorch have worked once. Where the
    function looks at numbers, to decide what to do next, recording it fails.

    Arguments:
        modules: what the function reads besides. It is recorded anew when an attribute in there (a number of steps, a
            mode, a list of numbers) has changed, or another object or tensor stands in its place; what changes inside
            of objects of other kinds is not seen.
    """

    @lru_cache(maxsize=MAX_RECORDINGS)
    def recording(kind: Kind) -> Callable[..., T]:
        assert kind.arguments is not None
        graph = make_fx(fn)(*kind.arguments)
        kind.arguments = None  # only the first caller's are used
        graph.graph.eliminate_dead_code()
        graph.recompile()
        return graph

    def play(*arguments: Any) -> T:
        with torch.no_grad():
            return recording(Kind(arguments, modules))(*arguments)

    return play


class Kind:
    """What a recording depends on: the shapes of arguments, and the settings of modules."""

    def __init__(self, arguments: tuple[Any, ...], modules: nn.Module) -> None:
        leaves, spec = _pytree.tree_flatten(arguments)
        of_leaves = [(x.shape, x.dtype, x.device) if isinstance(x, torch.Tensor) else x for x in leaves]
        self.arguments: tuple[Any, ...] | None = arguments
        self.key = (tuple(of_leaves), spec, tuple(_settings(modules)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kind) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key[:1] + self.key[2:])


def _settings(modules: nn.Module) -> Iterator[Any]:
    """Plain attributes of modules, and the identities of their tensors."""
    for module in modules.modules():
        yield type(module)
        for name, value in vars(module).items():
            if name in TORCH_OWN:
                continue
            if isinstance(value, list | tuple | dict | set):
                value = repr([x if isinstance(x, PLAIN) else id(x) for x in _pytree.tree_leaves(value)])
            yield name, value if isinstance(value, PLAIN) else id(value)
        for tensors in (module._parameters, module._buffers):
            yield from (id(value) for value in tensors.values())


def compile_seconds() -> float:
    """What this process has spent on compiling so far; less where kept programs were found."""
    utils = sys.modules.get("torch._dynamo.utils")  # slow to import: if nobody has, nothing was compiled
    times = getattr(utils, "compilation_time_metrics", {})  # what torch._dynamo.utils.compile_times reports
    return float(sum(times.get("_compile.compile_inner", ())))

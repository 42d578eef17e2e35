"""Recordings: the operations of a function on tensors, played back without Python, autograd or a compiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree

MAX_RECORDINGS = 16
"""Kinds of arguments for which a traced function is kept."""

TORCH_OWN = frozenset(vars(nn.Module())) - {"training"}
PLAIN = (bool, int, float, str, type(None))

ATEN = torch.ops.aten
RESHAPES = frozenset({ATEN.view.default, ATEN._unsafe_view.default, ATEN.expand.default})
TURNS = frozenset({ATEN.t.default, ATEN.transpose.int})
VIEWS = RESHAPES | TURNS | {ATEN.detach.default, ATEN.unsqueeze.default, ATEN.squeeze.dim, ATEN.permute.default}
"""Operations that show the same memory in another way."""

T = TypeVar("T")


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
        drop_needless_views(graph)
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


def drop_needless_views(graph: GraphModule) -> None:
    """Take out of a recording what shows a tensor as it is, turns it forth and back, or is there already.

    Autograd and functorch leave many of these; a fifth of the operations of small networks. What is left shares memory
    as it did.
    """
    known: dict[tuple[Any, ...], Node] = {}
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and node.target in VIEWS:
            same = _unchanged(node) or known.setdefault((node.target, node.args[0], str(node.args[1:])), node)
            if same is not node:
                node.replace_all_uses_with(same)
                graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _unchanged(node: Node) -> Node | None:
    """What a view shows as it is, if it does."""
    of = node.args[0]
    assert isinstance(of, Node)
    if node.target in TURNS:
        twice = (of.target, of.args[1:]) == (node.target, node.args[1:])
        return cast("Node", of.args[0]) if twice else None
    if node.target in RESHAPES:
        before, after = (_layout(x) for x in (of, node))
        return of if before is not None and before == after else None
    return of if node.target is ATEN.detach.default else None


def _layout(node: Node) -> tuple[Any, Any] | None:
    """Shape and strides of a tensor, where they are known."""
    meta = node.meta.get("tensor_meta")
    return None if meta is None else (meta.shape, meta.stride)

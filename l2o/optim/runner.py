"""Calls a rule with its tensors where, and as precise as, the parameters are; compiled on demand."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from l2o.compiled import compiled
from l2o.optim.graph import Graph, addresses
from l2o.rules.base import OptState, UpdateRule
from l2o.rules.coordinates import now_deferring
from l2o.types import Params, Theta

WARM_UP, MAX_GRAPHS = 2, 8
"""Calls of a kind before it is recorded, and kinds that are."""
MAX_COUNTED = 64
"""Kinds whose calls are counted."""


class Runner:
    """One rule, called with theta on the parameters' device and in their precision; the rule stays as it is.

    Arguments:
        compile: fuse the rule with `torch.compile`; where that fails, say so once and go on without. After eight sets
            of shapes torch compiles no more of them, and new ones run as they are.
        graph: on a GPU, record the rule as a CUDA graph at the third call with parameters of the same shapes, and play
            it from then on, in place of `compile` and as careful. Eight sets of shapes are recorded.
    """

    def __init__(self, rule: UpdateRule, compile: bool = False, graph: bool = False) -> None:
        self.rule, self.graph = rule, graph
        self._graphs: dict[Any, Graph] = {}
        self._met: dict[Any, tuple[int, list[int]]] = {}
        self._copies: dict[tuple[torch.device, torch.dtype], tuple[object, Theta]] = {}
        self._call = _caller(rule)
        self._compiled: Callable[..., Any] | None = compiled(self._call) if compile else None

    def __call__(self, grads: Params, state: OptState, params: Params, loss: Tensor | None) -> tuple[Params, OptState]:
        like = next(iter(params.values()))
        args = (self._theta(like.device, like.dtype), grads, state, params, loss)
        if self.graph and like.is_cuda and not torch.cuda.is_current_stream_capturing():
            return self._played(*args)
        if self._compiled is None:
            return self._call(*args)
        try:
            return self._compiled(*args)
        except Exception as error:
            result = self._call(*args)  # raises as well if it is the rule that fails
            self._compiled = None
            warnings.warn(f"l2o goes on without torch.compile, which failed: {error}", RuntimeWarning, stacklevel=2)
            return result

    def _played(
        self, theta: Theta, grads: Params, state: OptState, params: Params, loss: Tensor | None
    ) -> tuple[Params, OptState]:
        """From a graph, once there is one for such tensors."""
        like = next(iter(params.values()))
        shapes = tuple((name, p.shape) for name, p in params.items())
        at = tuple(x.data_ptr() for x in theta.values())
        key = (like.device, like.dtype, shapes, at, loss is None, now_deferring() is not None)
        graph = self._graphs.get(key)
        if graph is None or not graph.serves(params):
            count, before = self._met.pop(key, (0, []))
            self._met[key] = count + 1, addresses(params)  # the newest comes last
            if len(self._met) > MAX_COUNTED:
                del self._met[next(iter(self._met))]
            if count < WARM_UP or (graph is None and len(self._graphs) >= MAX_GRAPHS):
                return self._call(theta, grads, state, params, loss)
            stay = graph is None and before == addresses(params)
            try:
                graph = Graph(self._call, theta, grads, state, params, loss, in_place=stay)
            except Exception as error:
                self.graph = False
                result = self._call(theta, grads, state, params, loss)  # raises as well if it is the rule that fails
                warnings.warn(f"l2o goes on without a CUDA graph: {error}", RuntimeWarning, stacklevel=2)
                return result
            self._graphs[key] = graph
        return graph(grads, state, params, loss)

    def _theta(self, device: torch.device, dtype: torch.dtype) -> Theta:
        """The rule's own tensors where they fit, else a copy that is kept until the rule changes."""
        own = {**dict(self.rule.named_parameters()), **dict(self.rule.named_buffers())}
        if all(x.device == device and (x.dtype == dtype or not x.is_floating_point()) for x in own.values()):
            return own
        version = [(id(x), x._version) for x in own.values()]
        known, copy = self._copies.get((device, dtype), (None, {}))
        if known != version:
            copy = {key: x.detach().to(device, dtype if x.is_floating_point() else x.dtype) for key, x in own.items()}
            self._copies[device, dtype] = (version, copy)
            if known is not None:  # graphs of what it was before
                self._graphs.clear()
                self._met.clear()
        return copy


def _caller(rule: UpdateRule) -> Callable[..., tuple[Params, OptState]]:
    def call(theta: Theta, *args: Any) -> tuple[Params, OptState]:
        return functional_call(rule, theta, args)

    return call

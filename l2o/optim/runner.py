"""Calls a rule with its tensors where, and as precise as, the parameters are; compiled on demand."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from l2o.compiled import compiled
from l2o.rules.base import OptState, UpdateRule
from l2o.types import Params, Theta


class Runner:
    """One rule, called with theta on the parameters' device and in their precision; the rule stays as it is.

    Arguments:
        compile: fuse the rule with `torch.compile`; where that fails, say so once and go on without. After eight sets
            of shapes torch compiles no more of them, and new ones run as they are.
    """

    def __init__(self, rule: UpdateRule, compile: bool = False) -> None:
        self.rule = rule
        self._copies: dict[tuple[torch.device, torch.dtype], tuple[object, Theta]] = {}
        self._call = _caller(rule)
        self._compiled: Callable[..., Any] | None = compiled(self._call) if compile else None

    def __call__(self, grads: Params, state: OptState, params: Params, loss: Tensor | None) -> tuple[Params, OptState]:
        like = next(iter(params.values()))
        args = (self._theta(like.device, like.dtype), grads, state, params, loss)
        if self._compiled is None:
            return self._call(*args)
        try:
            return self._compiled(*args)
        except Exception as error:
            result = self._call(*args)  # raises as well if it is the rule that fails
            self._compiled = None
            warnings.warn(f"l2o goes on without torch.compile, which failed: {error}", RuntimeWarning, stacklevel=2)
            return result

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
        return copy


def _caller(rule: UpdateRule) -> Callable[..., tuple[Params, OptState]]:
    def call(theta: Theta, *args: Any) -> tuple[Params, OptState]:
        return functional_call(rule, theta, args)

    return call

"""Trade time for memory: recompute in the backward pass in place of storing (Chen et al., 2016)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree

T = TypeVar("T")


def recomputed(fn: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    """`fn(*arguments)`, trees of tensors in and out; stores nothing but the arguments for the backward pass.

    Torch's own checkpointing works through saved-tensor hooks, which a `torch.func.grad` inside `fn` refuses.
    """
    leaves, spec = _pytree.tree_flatten(arguments)
    out_spec: list[_pytree.TreeSpec] = []
    out = _Recompute.apply(fn, spec, out_spec, *leaves)
    return _pytree.tree_unflatten(out, out_spec[0])


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, fn: Callable[..., Any], spec: _pytree.TreeSpec, out_spec: list[_pytree.TreeSpec], *leaves: Any
    ) -> tuple[Any, ...]:
        ctx.fn, ctx.spec, ctx.random = fn, spec, _random_state(leaves)
        ctx.save_for_backward(*leaves)
        ctx.set_materialize_grads(False)
        out, structure = _pytree.tree_flatten(fn(*_pytree.tree_unflatten(leaves, spec)))
        out_spec.append(structure)
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        leaves = list(ctx.saved_tensors)  # None where an argument is none
        wanted = [i for i, need in enumerate(ctx.needs_input_grad[3:]) if need]
        for i in wanted:
            leaves[i] = leaves[i].detach().requires_grad_()
        with torch.enable_grad(), _as_before(ctx.random):
            out = _pytree.tree_leaves(ctx.fn(*_pytree.tree_unflatten(leaves, ctx.spec)))
        reached = [(o, g) for o, g in zip(out, grads, strict=True) if g is not None and o.requires_grad]
        found: list[Tensor | None] = [None] * len(leaves)
        if reached:
            outputs, upstream = zip(*reached, strict=True)
            by_input = torch.autograd.grad(outputs, [leaves[i] for i in wanted], upstream, allow_unused=True)
            for i, grad in zip(wanted, by_input, strict=True):
                found[i] = grad
        return (None, None, None, *found)


def _random_state(leaves: tuple[Any, ...]) -> dict[torch.device, Tensor]:
    """The states of the global generators that `fn` may draw from (dropout)."""
    devices = {leaf.device for leaf in leaves if isinstance(leaf, Tensor) and leaf.device.type == "cuda"}
    states = {device: torch.cuda.get_rng_state(device) for device in devices}
    return states | {torch.device("cpu"): torch.get_rng_state()}


@contextmanager
def _as_before(states: dict[torch.device, Tensor]) -> Iterator[None]:
    """Draw again what was drawn, and leave the generators as they are."""
    cuda = [device for device in states if device.type == "cuda"]
    with torch.random.fork_rng(devices=cuda):
        torch.set_rng_state(states[torch.device("cpu")])
        for device in cuda:
            torch.cuda.set_rng_state(states[device], device)
        yield

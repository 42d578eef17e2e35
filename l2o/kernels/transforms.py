"""How operations of a library stand to torch's function transforms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from l2o.tracing import constant


@constant
def inside_grad() -> bool:
    """Whether a transform other than `vmap` is at work: `torch.func.grad` and its kin refuse such operations.

    (Derivatives by `torch.autograd`, outside the transforms, pass through them.)
    """
    levels = torch._C._functorch.get_interpreter_stack() or []
    return any(level.key() != torch._C._functorch.TransformType.Vmap for level in levels)


def batched(op: Any) -> Callable[..., Any]:
    """What `vmap` makes of an operation: the same one with (more) lanes.

    Arguments:
        op: takes tensors and lists of tensors, then the number of lanes (0: no such axis) and two lists of numbers;
            gives a list of tensors.
    """

    def rule(info: Any, in_dims: Sequence[Any], *args: Any) -> tuple[list[Tensor], list[int]]:
        *given, lanes, whole, numbers = args
        size = info.batch_size

        def lead(x: Any, dim: Any) -> Any:
            if isinstance(x, list):
                return [lead(*each) for each in zip(x, dim or [None] * len(x), strict=True)]
            if not isinstance(x, Tensor):
                return x
            if dim != 0:
                x = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
            return x.flatten(0, 1) if lanes else x

        lanes_first = [lead(x, dim) for x, dim in zip(given, in_dims, strict=False)]
        found = op(*lanes_first, size * max(lanes, 1), whole, numbers)
        return [x.unflatten(0, (size, lanes)) for x in found] if lanes else found, [0] * len(found)

    return rule

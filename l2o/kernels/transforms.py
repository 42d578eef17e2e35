"""Where torch's function transforms admit operations of a library."""

from __future__ import annotations

import torch


@torch.compiler.assume_constant_result
def inside_grad() -> bool:
    """Whether a transform other than `vmap` is at work: `torch.func.grad` and its kin refuse such operations.

    (Derivatives by `torch.autograd`, outside the transforms, pass through them.)
    """
    levels = torch._C._functorch.get_interpreter_stack() or []
    return any(level.key() != torch._C._functorch.TransformType.Vmap for level in levels)

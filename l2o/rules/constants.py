"""Numbers that a rule computes with, beside its tensors."""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor


def numbers(values: tuple[float, ...], like: Tensor) -> Float[Tensor, " k"]:
    """Numbers in the precision and on the device of a tensor; on a GPU they are kept, because a copy waits for it."""
    if not like.is_cuda or torch.compiler.is_compiling() or torch._C._functorch.get_interpreter_stack():
        return like.new_tensor(values)
    return _kept(values, like.dtype, like.device)


@cache
def _kept(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)

"""Numbers that a rule computes with, beside its tensors."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from l2o.kernels.recording import keep

Values: TypeAlias = "tuple[float | Values, ...]"
"""Numbers, or equal rows of them."""


def numbers(values: Values, like: Tensor) -> Float[Tensor, "..."]:
    """Numbers in the precision and on the device of a tensor; on a GPU they are kept, because a copy waits for it."""
    if not like.is_cuda or torch.compiler.is_compiling() or torch._C._functorch.get_interpreter_stack():
        return torch.tensor(values, dtype=like.dtype).to(like.device)
    return keep(_copied(values, like.dtype, like.device))


@lru_cache(maxsize=256)
def _copied(values: Values, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)

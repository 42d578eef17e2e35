"""Whether a function is being transformed by `torch.func`."""

from __future__ import annotations

import torch


@torch.compiler.assume_constant_result
def inside_transform() -> bool:
    """Whether a transform of `torch.func` is at work."""
    return bool(torch._C._functorch.get_interpreter_stack())

"""What has to be known of a module or a moment before `torch.func` is used on it."""

from __future__ import annotations

import torch
from torch import nn

from l2o.tracing import constant


@constant
def inside_transform() -> bool:
    """Whether a transform of `torch.func` is at work."""
    return bool(torch._C._functorch.get_interpreter_stack())


def has_ties(module: nn.Module) -> bool:
    """Whether a parameter has two names, so that `functional_call` has to look for them; that takes time."""
    return len(list(module.parameters())) < len(list(module.named_parameters(remove_duplicate=False)))

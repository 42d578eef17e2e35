"""Marks for torch's compiler that do not import it, which takes as long as importing torch.

`torch.compiler.assume_constant_result` and `torch.compiler.disable` import it as soon as they decorate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

F = TypeVar("F", bound=Callable[..., Any])


def constant(function: F) -> F:
    """What a compiled function calls once, while it is traced: `torch.compiler.assume_constant_result`."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]  # the same in torch 2.6 to 2.13
    return function


def untraced(function: F) -> F:
    """What a compiled function leaves as it is: `torch.compiler.disable` from the first call on, as torch does."""
    return cast(F, torch._disable_dynamo(function))

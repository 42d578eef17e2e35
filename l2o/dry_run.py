"""A constructor run without memory, to see what it would make before it makes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


def without_memory(make: Callable[[], nn.Module], max_bytes: int, max_tensors: int) -> nn.Module:
    """The module that `make` gives, on the meta device: shapes and dtypes without numbers.

    Arguments:
        make: makes it; a constructor must not look at numbers for this.
        max_bytes: of all tensors made on the way, had they memory.
        max_tensors: how many these may be.

    Raises:
        ValueError: there are more; and whatever `make` raises.
    """
    with torch.device("meta"), _Counted(max_bytes, max_tensors):
        return make()


class _Counted(TorchDispatchMode):
    def __init__(self, max_bytes: int, max_tensors: int) -> None:
        super().__init__()
        self.max_bytes, self.max_tensors, self.num_bytes, self.num_tensors = max_bytes, max_tensors, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and not func._schema.is_mutable:
            self.num_bytes += made.untyped_storage().nbytes()
            self.num_tensors += 1
        if self.num_bytes > self.max_bytes or self.num_tensors > self.max_tensors:
            raise ValueError(
                f"they ask for more than {self.max_bytes:,} bytes or {self.max_tensors:,} tensors, which such a file "
                "cannot fill."
            )
        return made

"""The parameters of an optimizer, numbered in the order of its groups, and as rules see them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2o.optim.processes import whole


class Member(NamedTuple):
    """A parameter of the optimizer; `key` is what the rule calls it."""

    key: str
    name: str | None
    param: Tensor
    group: dict[str, Any]

    def gradient(self) -> Tensor:
        """Of what is to be minimised."""
        assert self.param.grad is not None
        return -self.param.grad if self.group["maximize"] else self.param.grad

    def __str__(self) -> str:
        return f"parameter {self.key}" + (f" ({self.name})" if self.name else "")


def members_of(param_groups: list[dict[str, Any]]) -> Iterator[Member]:
    """Every parameter once, numbered in the order of the groups."""
    seen: set[Tensor] = set()
    for group in param_groups:
        names = group.get("param_names", [None] * len(group["params"]))
        for name, p in zip(names, group["params"], strict=True):
            if p not in seen:
                yield Member(str(len(seen)), name, p, group)
            seen.add(p)


def by_device(members: Iterable[Member]) -> list[list[Member]]:
    """Parameters to move, one list a device; empty ones have nothing to move."""
    parts: dict[torch.device, list[Member]] = {}
    for member in members:
        p = member.param
        if p.grad is not None and p.requires_grad and p.numel():
            parts.setdefault(p.device, []).append(member)
    return list(parts.values())


def precision_on(device: torch.device, members: Iterable[Member]) -> torch.dtype:
    """What is computed with on a device: float64 if any of its parameters is that precise, else float32."""
    dtypes = {m.param.dtype for m in members if m.param.device == device}
    return torch.float64 if dtypes & {torch.float64, torch.complex128} else torch.float32


def as_real(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A parameter or gradient as rules see it: whole, dense, real (complex as pairs), contiguous, of `dtype`."""
    x = whole(x)
    x = x if x.layout == torch.strided else x.to_dense()
    x = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x.resolve_neg()
    return (x if x.dtype == dtype else x.to(dtype)).contiguous()

"""One step before it is made: what the rule is given, what it proposes, and whether that is finite."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2o.optim.members import Member
from l2o.rules.base import OptState
from l2o.rules.coordinates import LARGE_SLOTS, Deferred
from l2o.types import Params


class Proposal(NamedTuple):
    """A step that has not been made; `deferred` is what is to be done to the state if it is."""

    members: list[Member]
    params: Params
    grads: Params
    loss: Tensor | None
    updates: Params
    state: OptState
    deferred: Deferred


def scalar(loss: Any, device: torch.device, dtype: torch.dtype) -> Tensor | None:
    """A loss as rules take it; whatever else a closure returns is none."""
    if isinstance(loss, Tensor):
        return loss.detach().to(device, dtype).reshape(()) if loss.numel() == 1 else None
    return torch.tensor(loss, device=device, dtype=dtype) if isinstance(loss, int | float) else None


def fault_of(proposal: Proposal) -> str | None:
    """What is not finite, causes before consequences, in words; None if all is well."""
    loss, members = [] if proposal.loss is None else [proposal.loss], proposal.members
    kept = {m.key: _looked_at(proposal, m.key) for m in members}
    if _all_finite([*loss, *proposal.grads.values(), *proposal.updates.values(), *chain(*kept.values())]):
        return None
    parts = {
        "gradient": {key: [x] for key, x in proposal.grads.items()},
        "update": {key: [x] for key, x in proposal.updates.items()},
        "state": kept,
    }
    faults = ["the loss is not"] if not _all_finite(loss) else []
    for what, tensors in parts.items():
        faults += [f"the {what} of {m} is not" for m in members if not _all_finite(tensors[m.key])]
    return faults[0]


def _looked_at(proposal: Proposal, key: str) -> list[Tensor]:
    """The new state of a parameter, but for averages that are not new yet."""
    later = LARGE_SLOTS if key in proposal.deferred.names else ()
    return [x for slot, x in proposal.state.slots[key].items() if x.is_floating_point() and slot not in later]


def _all_finite(tensors: list[Tensor]) -> bool:
    """Whether no tensor holds inf or nan; one look at the device, if so."""
    tensors = [x for x in tensors if x.numel()]
    # 2-norms are several times faster than maxima, but those of huge finite values overflow
    return not tensors or any(_finite_norms(tensors, order) for order in (2.0, math.inf))


def _finite_norms(tensors: list[Tensor], order: float) -> bool:
    norms = list(torch._foreach_norm(tensors, order))
    same = len({x.dtype for x in norms}) == 1
    return bool(torch.stack(norms if same else [x.double() for x in norms]).isfinite().all())

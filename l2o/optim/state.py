"""A rule's state as torch.optim keeps it: one dict of tensors a parameter, and nothing beside.

Tools that save, shard or move optimizers know per-parameter tensors only. So each parameter's dict holds its slots
under their own names, and, the same tensors for all, the `step` and under `shared.<name>` what belongs to the whole
network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from l2o.rules.base import OptState, UpdateRule
from l2o.types import Params

SHARED = "shared."

Packed = dict[str, Any]
"""One parameter's part of an OptState, as it stands in `optimizer.state[p]`."""


def pack(name: str, state: OptState) -> Packed:
    """The part of `state` that parameter `name` keeps; a name without slots keeps only what all share."""
    slots = state.slots.get(name, {})
    taken = [slot for slot in slots if slot == "step" or slot.startswith(SHARED)]
    if taken:
        raise ValueError(f"a slot must not be called 'step' or '{SHARED}...', which the optimizer uses; got {taken}.")
    return {"step": state.step, **slots, **{SHARED + key: value for key, value in state.shared.items()}}


def gather(
    rule: UpdateRule,
    params: Params,
    packed: Mapping[str, Packed],
    current: Packed | None,
    total_steps: int | None,
) -> OptState:
    """The OptState of `params`, with fresh slots for those that have no state yet.

    Arguments:
        packed: each parameter's dict, empty before its first step.
        current: any parameter's dict, for step and shared tensors; None before the first step.
    """
    new = {name: p for name, p in params.items() if not packed[name]}
    fresh = rule.init(new, total_steps) if new else None
    slots = {name: _slots(packed[name]) if packed[name] else fresh.slots[name] for name in params}  # type: ignore[union-attr]
    if current is None:
        assert fresh is not None
        return OptState(fresh.step, slots, fresh.shared)
    return as_computed(OptState(current["step"], slots, _shared(current)), next(iter(params.values())))


def as_computed(state: OptState, like: Tensor) -> OptState:
    """State on the device of `like`; float32 and float64 are interchanged to match it, other dtypes stay."""

    device, dtype = like.device, like.dtype

    def move(x: Tensor) -> Tensor:
        if x.dtype == dtype and x.device == device:
            return x
        return x.to(device, dtype if x.dtype in (torch.float32, torch.float64) else x.dtype)

    slots = {name: {key: move(x) for key, x in slot.items()} for name, slot in state.slots.items()}
    return OptState(state.step.to(like.device), slots, {key: move(x) for key, x in state.shared.items()})


def narrowed(state: OptState, keys: Sequence[str]) -> OptState:
    """State with the slots of these names in bfloat16.

    They are rounded up with the probability of what is cut off, so that an average of small changes is right on
    average; to the nearest, one with decay 0.999 would stand still. The random numbers follow from the step.
    """
    generators: dict[torch.device, torch.Generator] = {}

    def narrow(key: str, x: Tensor) -> Tensor:
        if key not in keys or x.dtype == torch.bfloat16:
            return x
        if x.device not in generators:
            generators[x.device] = torch.Generator(x.device).manual_seed(int(state.step))
        x = x.float()
        noise = torch.randint(2**16, x.shape, generator=generators[x.device], device=x.device, dtype=torch.int32)
        rounded = ((x.view(torch.int32) + noise) & -(2**16)).view(torch.float32)
        return torch.where(x.isfinite(), rounded, x).to(torch.bfloat16)

    return _with_slots(state, narrow) if keys else state


def widened(state: OptState, keep: Sequence[str], dtype: torch.dtype) -> OptState:
    """State with the half-precision slots in `dtype`, but for those of the names to keep."""

    def widen(key: str, x: Tensor) -> Tensor:
        return x.to(dtype) if x.dtype in (torch.bfloat16, torch.float16) and key not in keep else x

    return _with_slots(state, widen)


def _with_slots(state: OptState, change: Callable[[str, Tensor], Tensor]) -> OptState:
    slots = {name: {key: change(key, x) for key, x in slot.items()} for name, slot in state.slots.items()}
    return state._replace(slots=slots)


def owned(state: OptState, foreign: Iterable[Tensor]) -> OptState:
    """State without graph, every tensor in memory of its own, because others write to it in place.

    Arguments:
        foreign: tensors whose memory belongs to others.
    """
    taken = {x.untyped_storage().data_ptr() for x in foreign}
    seen: set[int] = set()

    def own(x: Tensor) -> Tensor:
        x = x.detach() if x.requires_grad else x
        if x.untyped_storage().data_ptr() in taken or x.data_ptr() in seen:
            x = x.clone()
        if x.numel():
            seen.add(x.data_ptr())
        return x

    slots = {name: {key: own(x) for key, x in slot.items()} for name, slot in state.slots.items()}
    return OptState(own(state.step), slots, {key: own(x) for key, x in state.shared.items()})


def _slots(packed: Packed) -> dict[str, Tensor]:
    return {key: x for key, x in packed.items() if key != "step" and not key.startswith(SHARED)}


def _shared(packed: Packed) -> dict[str, Tensor]:
    return {key.removeprefix(SHARED): x for key, x in packed.items() if key.startswith(SHARED)}

"""What learned rules do with all coordinates of a network: remember their gradients, respond with a step.

Two verbs, each with a readable form (`l2o.rules.reference`) and a fast one (`l2o.rules.fused`). Which one is taken
depends on the tensors and the machine, never on the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from l2o.kernels import build
from l2o.kernels.coordinate_mlp import Averages, Network
from l2o.kernels.devices import available, kernels_for
from l2o.kernels.transforms import inside_grad
from l2o.rules import fused, reference
from l2o.rules.base import working
from l2o.rules.features import has_moved
from l2o.types import Params

Slots = dict[str, dict[str, Tensor]]

LARGE_SLOTS = ("momenta", "second")
"""What is remembered of each coordinate; may be bfloat16."""

AVERAGES = {*LARGE_SLOTS, "row", "column", "diagonal"}
"""The slots that kernels read."""

WORKED_IN_FLOAT32 = (torch.float32, torch.bfloat16, torch.float16)
"""Parameters that `working` makes float32 of."""


class Seen(NamedTuple):
    """What the fast form of `remember` saw on its way.

    moments: of all tensors, see `reference.moments`.
    rates: of the averages, where momenta and second moments are brought up to date later (see `deferring`).
    """

    moments: Float[Tensor, "tensors k"]
    rates: Float[Tensor, " r"] | None = None


class Deferred:
    """Averages that a step has left to be brought up to date, if the step is made.

    They are then finite if the gradients are: no need to look at them.

    Attributes:
        names: of the tensors concerned.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._work: list[tuple[list[Tensor], list[Averages], Tensor, Network]] = []

    def add(
        self, names: list[str], grads: list[Tensor], averages: list[Averages], rates: Tensor, network: Network
    ) -> None:
        """Note what is to be done."""
        self.names.update(names)
        self._work.append((grads, averages, rates, network))

    def join(self, other: Deferred) -> None:
        """Note what another has noted."""
        self.names |= other.names
        self._work += other._work

    def advance(self, seed: int = 0) -> None:
        """Bring the averages up to date; where they are bfloat16 they are rounded at random, from this seed."""
        for grads, averages, rates, network in self._work:
            kernels_for(rates.device).advance(grads, averages, rates, network, seed)


_deferred: ContextVar[Deferred | None] = ContextVar("_deferred", default=None)


@contextmanager
def deferring(wanted: bool = True) -> Iterator[Deferred]:
    """A rule called inside may return old momenta and second moments, to be brought up to date in place afterwards.

    No new averages are then allocated, and nothing is lost if the step is not made.
    """
    deferred = Deferred()
    token = _deferred.set(deferred if wanted else None)
    try:
        yield deferred
    finally:
        _deferred.reset(token)


def now_deferring() -> Deferred | None:
    """Where a rule that is called now leaves what is to be done later; None if it must leave nothing."""
    return None if torch.compiler.is_compiling() else _deferred.get()


def remember(
    params: Params, grads: Params, slots: Slots, rates: Float[Tensor, " r"], network: Network
) -> tuple[Slots, Seen | None]:
    """The averages of every tensor after one more gradient.

    Returns:
        the slots, and what the fast form has seen, if it was taken.
    """
    names = [name for name, p in params.items() if p.numel()]
    deferred = now_deferring()
    if deferred is not None and not all(x.is_contiguous() for name in names for x in slots[name].values()):
        deferred = None  # as loaded from elsewhere; the kernels write to what is contiguous only
    if deferred is None:
        slots = _widened(params, slots, names)
    if not _fast(params, grads, slots, names, rates, network):
        slots = _widened(params, slots, names)
        made = [reference.remember(_as(grads, params, x), slots[x], rates, network) for x in names]
        return {**slots, **dict(zip(names, made, strict=True))}, None
    ps, gs, before = _lists(params, grads, slots, names)
    rates = rates.to(torch.float32)
    if deferred is None:
        made, moments = fused.remember(ps, gs, before, rates, network)
        seen = Seen(moments)
    else:
        made, moments = fused.remember_later(ps, gs, before, rates, network)
        seen = Seen(moments, rates)
        deferred.add(names, gs, [fused.averages_of(slot) for slot in before], rates, network)
    return {**slots, **dict(zip(names, made, strict=True))}, seen


def respond(
    params: Params,
    grads: Params,
    slots: Slots,
    seen: Seen | None,
    layers: Float[Tensor, " *tensors w"],
    network: Network,
    sizes: Float[Tensor, " tensors"] | None = None,
) -> Params:
    """The step of every tensor, in its precision; an empty tensor's is empty.

    Arguments:
        slots, seen: as `remember` left them.
        layers: the network's weights and biases in a row; a row for each tensor that is not empty, or one for all.
        sizes: a factor of each such tensor's step.
    """
    names = [name for name, p in params.items() if p.numel()]
    if seen is None:
        each = layers if layers.ndim == 2 else [layers] * len(names)
        factors = [None] * len(names) if sizes is None else sizes
        steps = [
            reference.respond(working(params[name]), _as(grads, params, name), slots[name], flat, size, network)
            for name, flat, size in zip(names, each, factors, strict=True)
        ]
    else:
        ps, gs, before = _lists(params, grads, slots, names)
        numbers = (seen.moments, layers.to(torch.float32), None if sizes is None else sizes.to(torch.float32), network)
        if seen.rates is None:
            steps = fused.respond(ps, gs, before, *numbers)
        else:
            steps = fused.respond_now(ps, gs, before, *numbers, seen.rates)
    made = dict(zip(names, steps, strict=True))
    return {name: made[name].to(p.dtype) if name in made else torch.zeros_like(p) for name, p in params.items()}


def measure(
    params: Params, grads: Params, slots: Slots, seen: Seen | None, network: Network
) -> Float[Tensor, "tensors k"]:
    """Moments of the tensors that are not empty, see `reference.moments`; slots and seen as `remember` left them."""
    if seen is not None:
        return seen.moments
    names = [name for name, p in params.items() if p.numel()]
    of = [(working(params[name]), _as(grads, params, name), slots[name]) for name in names]
    return torch.stack([reference.moments(p, grad, slot, network) for p, grad, slot in of])


def share_moved(slots: Slots, seen: Seen | None, names: list[str]) -> Float[Tensor, " tensors"]:
    """The share of each tensor's coordinates that have ever had a gradient; `names` are all that are not empty."""
    if seen is not None:
        return seen.moments[:, -1]
    moved = [has_moved(slots[name]) for name in names]
    return torch.stack([x.to(slots[name]["momenta"].dtype).mean() for name, x in zip(names, moved, strict=True)])


def _fast(params: Params, grads: Params, slots: Slots, names: list[str], rates: Tensor, network: Network) -> bool:
    """Whether the fast form is to be taken: plain tensors on one device that has kernels, averages in float32.

    Not where derivatives may be recorded: making the readable form again in a backward pass would take longer than
    recording it, and `torch.func.grad` refuses operations of a library.
    """
    if not names or not build.wanted() or torch.is_grad_enabled() or inside_grad():
        return False
    device, half = rates.device, slots[names[0]]["momenta"].dtype == torch.bfloat16
    large = torch.bfloat16 if half else torch.float32
    for name in names:
        p, grad, slot = params[name], grads[name], slots[name]
        if not (
            p.device == grad.device == device and p.dtype in WORKED_IN_FLOAT32 and _is_plain(p) and _is_plain(grad)
        ):
            return False
        for key in AVERAGES & slot.keys():
            x = slot[key]
            if x.device != device or x.dtype != (large if key in LARGE_SLOTS else torch.float32) or not _is_plain(x):
                return False
    return available(device, network.hidden, network.num_layers, half)


def _is_plain(x: Tensor) -> bool:
    """Whether the numbers of a tensor are where it says: not in a subclass, which may keep them elsewhere."""
    return type(x) in (Tensor, Parameter)


def _widened(params: Params, slots: Slots, names: list[str]) -> Slots:
    """Slots with averages as precise as their parameters are worked with, where they were bfloat16."""
    half = [name for name in names if slots[name]["momenta"].dtype == torch.bfloat16]

    def wide(name: str) -> dict[str, Tensor]:
        dtype = working(params[name]).dtype
        return slots[name] | {key: slots[name][key].to(dtype) for key in LARGE_SLOTS}

    return {**slots, **{name: wide(name) for name in half}} if half else slots


def _lists(
    params: Params, grads: Params, slots: Slots, names: list[str]
) -> tuple[list[Tensor], list[Tensor], list[dict[str, Tensor]]]:
    return (
        [working(params[name]) for name in names],
        [_as(grads, params, name) for name in names],
        [slots[name] for name in names],
    )


def _as(grads: Params, params: Params, name: str) -> Tensor:
    """A gradient in the precision that its parameter is worked with."""
    grad, dtype = grads[name], working(params[name]).dtype
    return grad if grad.dtype == dtype else grad.to(dtype)

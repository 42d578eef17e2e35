"""The fast form of `l2o.rules.reference`: two torch operations on all tensors of a network, each run by a kernel.

Each takes the tensors as they are or, with `lanes`, under one leading axis, which is how `vmap` calls it. They have no
derivatives: where those are recorded, the readable form is taken, whose backward pass then has all it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from l2o.kernels.build import SOURCES
from l2o.kernels.coordinate_mlp import NUM_MOMENTS, Averages, Network
from l2o.kernels.devices import kernels_for
from l2o.kernels.transforms import batched

_LISTS = "Tensor[] params, Tensor[] grads, Tensor[] momenta, Tensor[] second, Tensor[] rows, Tensor[] columns"
_NETWORK = "int lanes, int[] form, float[] numbers"
_library = torch.library.Library("l2o", "DEF")
_library.define(f"remember({_LISTS}, Tensor rates, {_NETWORK}) -> Tensor[]")
_library.define(f"respond({_LISTS}, Tensor moments, Tensor layers, Tensor? sizes, {_NETWORK}) -> Tensor[]")

NUM_FORM = 6
"""The first fields of a Network are whole numbers, the others are sent as if they were not."""

VERSION = crc32(b"".join(path.read_bytes() for path in sorted(SOURCES.glob("*.[hc]*"))))
"""An argument of both operations: compiled programs kept for another kernel must not be taken for this one."""


def remember(
    params: list[Tensor], grads: list[Tensor], slots: list[dict[str, Tensor]], rates: Tensor, network: Network
) -> tuple[list[dict[str, Tensor]], Tensor]:
    """The averages of every tensor after one more gradient, and the moments of all."""
    found = torch.ops.l2o.remember(params, grads, *_lists(slots), rates, 0, *_arguments(network))
    averages = _averages(found[:-1], len(params), [_is_factored(p, 0) for p in params])
    return [slot | _slot(new) for slot, new in zip(slots, averages, strict=True)], found[-1]


def respond(
    params: list[Tensor],
    grads: list[Tensor],
    slots: list[dict[str, Tensor]],
    moments: Tensor,
    layers: Tensor,
    sizes: Tensor | None,
    network: Network,
) -> list[Tensor]:
    """The step of every tensor; layers and sizes for all, or one row a tensor."""
    return torch.ops.l2o.respond(params, grads, *_lists(slots), moments, layers, sizes, 0, *_arguments(network))


def remember_later(
    params: list[Tensor], grads: list[Tensor], slots: list[dict[str, Tensor]], rates: Tensor, network: Network
) -> tuple[list[dict[str, Tensor]], Tensor]:
    """`remember`, with momenta and second moments still the old ones; no derivatives, no vmap."""
    averages = [averages_of(slot) for slot in slots]
    kernels = kernels_for(rates.device)
    made, moments = kernels.measure(params, grads, averages, rates.contiguous(), network, later=True)
    return [slot | _slot(new) for slot, new in zip(slots, made, strict=True)], moments


def respond_now(
    params: list[Tensor],
    grads: list[Tensor],
    slots: list[dict[str, Tensor]],
    moments: Tensor,
    layers: Tensor,
    sizes: Tensor | None,
    network: Network,
    rates: Tensor,
) -> list[Tensor]:
    """`respond` after `remember_later`."""
    averages = [averages_of(slot) for slot in slots]
    layers, sizes = layers.contiguous(), None if sizes is None else sizes.contiguous()
    kernels = kernels_for(moments.device)
    return kernels.move(params, grads, averages, moments, layers, sizes, network, rates=rates.contiguous())


def averages_of(slot: dict[str, Tensor]) -> Averages:
    """A slot as the kernel takes it."""
    if "row" in slot:
        return Averages(slot["momenta"], slot["second"], slot["row"], slot["column"])
    return Averages(slot["momenta"], slot["second"], slot["diagonal"], None)


def _slot(averages: Averages) -> dict[str, Tensor]:
    """The inverse of `averages_of`."""
    m, v, row, column = averages
    slot = {"momenta": m, "second": v}
    return slot | ({"diagonal": row} if column is None else {"row": row, "column": column})


def _is_factored(p: Tensor, lanes: int) -> bool:
    return p.ndim - (lanes > 0) >= 2


def _lists(slots: Sequence[dict[str, Tensor]]) -> tuple[list[Tensor], ...]:
    """Momenta, second moments, rows (or diagonals) and columns (of factored tensors only)."""
    rows = [slot["row"] if "row" in slot else slot["diagonal"] for slot in slots]
    columns = [slot["column"] for slot in slots if "column" in slot]
    return [slot["momenta"] for slot in slots], [slot["second"] for slot in slots], rows, columns


def _averages(flat: Sequence[Tensor], num: int, factored: Sequence[bool]) -> list[Averages]:
    """From momenta, second moments, rows and columns in a row; the inverse of `_lists`."""
    columns = iter(flat[3 * num :])
    first = zip(flat[:num], flat[num : 2 * num], flat[2 * num : 3 * num], factored, strict=True)
    return [Averages(m, v, row, next(columns) if is_factored else None) for m, v, row, is_factored in first]


def _arguments(network: Network) -> tuple[list[int], list[float]]:
    return [*map(int, network[:NUM_FORM]), VERSION], [*map(float, network[NUM_FORM:])]


def _network(form: Sequence[int], numbers: Sequence[float]) -> Network:
    """The inverse of `_arguments`."""
    hidden, num_layers, num_outputs, *flags = form[:NUM_FORM]
    network = Network(hidden, num_layers, num_outputs, *map(bool, flags), *numbers)
    return network._replace(masked=bool(network.masked))


def _remember_fast(*args: Any) -> list[Tensor]:
    params, grads, *lists, rates, lanes, form, numbers = args
    params, grads, *lists = ([x.contiguous() for x in tensors] for tensors in (params, grads, *lists))
    flat = [x for tensors in lists for x in tensors]
    averages = _averages(flat, len(params), [_is_factored(p, lanes) for p in params])
    kernels = kernels_for(rates.device)
    made, moments = kernels.measure(params, grads, averages, rates.contiguous(), _network(form, numbers), lanes)
    return [*(a[i] for i in range(3) for a in made), *(a.column for a in made if a.column is not None), moments]


def _respond_fast(*args: Any) -> list[Tensor]:
    params, grads, *lists, moments, layers, sizes, lanes, form, numbers = args
    params, grads, *lists = ([x.contiguous() for x in tensors] for tensors in (params, grads, *lists))
    flat = [x for tensors in lists for x in tensors]
    averages = _averages(flat, len(params), [_is_factored(p, lanes) for p in params])
    sizes = None if sizes is None else sizes.contiguous()
    return kernels_for(moments.device).move(
        params, grads, averages, moments.contiguous(), layers.contiguous(), sizes, _network(form, numbers), lanes
    )


def _remember_shapes(*args: Any) -> list[Tensor]:
    params, _, *lists, rates, _, _, _ = args
    moments = rates.new_empty(*rates.shape[:-1], len(params), NUM_MOMENTS)
    return [*(_dense(x) for tensors in lists for x in tensors), moments]


def _respond_shapes(*args: Any) -> list[Tensor]:
    return [_dense(p) for p in args[0]]


def _dense(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


for _op, _fast, _shapes in (
    ("remember", _remember_fast, _remember_shapes),
    ("respond", _respond_fast, _respond_shapes),
):
    for _key in ("CPU", "CUDA"):
        _library.impl(_op, _fast, _key)
    torch.library.register_fake(f"l2o::{_op}", _shapes)
    torch.library.register_vmap(f"l2o::{_op}", batched(getattr(torch.ops.l2o, _op)))

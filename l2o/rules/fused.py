"""The fast form of `l2o.rules.reference`: two torch operations on all tensors of a network, each run by a kernel.

Each takes the tensors as they are or, with `lanes`, under one leading axis, which is how `vmap` calls it. Their
derivatives are those of the readable form, made again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils import _pytree

from l2o.kernels.build import SOURCES
from l2o.kernels.coordinate_mlp import NUM_MOMENTS, Averages, Network
from l2o.kernels.devices import kernels_for
from l2o.kernels.transforms import batched
from l2o.rules import reference

_LISTS = "Tensor[] params, Tensor[] grads, Tensor[] momenta, Tensor[] second, Tensor[] rows, Tensor[] columns"
_NETWORK = "int lanes, int[] form, float[] numbers"
_library = torch.library.Library("l2o", "DEF")
_library.define(f"remember({_LISTS}, Tensor rates, {_NETWORK}) -> Tensor[]")
_library.define(f"respond({_LISTS}, Tensor moments, Tensor layers, Tensor? sizes, {_NETWORK}) -> Tensor[]")

NUM_FORM = 6
"""The first fields of a Network are whole numbers, the others are not."""

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
    return [*map(int, network[:NUM_FORM]), VERSION], list(network[NUM_FORM:])


def _network(form: Sequence[int], numbers: Sequence[float]) -> Network:
    """The inverse of `_arguments`."""
    hidden, num_layers, num_outputs, *flags = form[:NUM_FORM]
    return Network(hidden, num_layers, num_outputs, *map(bool, flags), *numbers)


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


def _remember_reference(args: Sequence[Any]) -> list[Tensor]:
    params, grads, *lists, rates, _, form, numbers = args
    network = _network(form, numbers)
    slots = _slots(params, lists)
    made = [reference.remember(g, slot, rates, network.max_gradient) for g, slot in zip(grads, slots, strict=True)]
    moments = [reference.moments(p, g, slot, network) for p, g, slot in zip(params, grads, made, strict=True)]
    return [*(x for tensors in _lists(made) for x in tensors), torch.stack(moments)]


def _respond_reference(args: Sequence[Any]) -> list[Tensor]:
    params, grads, *lists, _, layers, sizes, _, form, numbers = args
    network, num = _network(form, numbers), len(params)
    each_layers = layers if layers.ndim == 2 else [layers] * num
    each_size = [None] * num if sizes is None else sizes
    parts = zip(params, grads, _slots(params, lists), each_layers, each_size, strict=True)
    return [reference.respond(*part, network) for part in parts]


def _slots(params: Sequence[Tensor], lists: Sequence[Sequence[Tensor]]) -> list[dict[str, Tensor]]:
    flat = [x for tensors in lists for x in tensors]
    averages = _averages(flat, len(params), [_is_factored(p, 0) for p in params])
    return [_slot(a) for a in averages]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.leaves, ctx.spec = _pytree.tree_flatten(inputs)
    ctx.places = [i for i, leaf in enumerate(ctx.leaves) if isinstance(leaf, Tensor)]
    ctx.save_for_backward(*(ctx.leaves[i] for i in ctx.places))
    for i in ctx.places:
        ctx.leaves[i] = None


def _derivative(compute: Callable[[Sequence[Any]], list[Tensor]]) -> Callable[..., Any]:
    """The backward pass through the readable form of an operation."""

    def backward(ctx: Any, upstream: Sequence[Tensor | None]) -> Any:
        again = torch.is_grad_enabled()  # a derivative of this derivative may be wanted
        leaves = list(ctx.leaves)
        for i, x in zip(ctx.places, ctx.saved_tensors, strict=True):
            # nodes of their own: what one was made of another, earlier, is not for this derivative
            leaves[i] = x.view_as(x) if again else x.detach().requires_grad_(x.requires_grad)
        args = _pytree.tree_unflatten(leaves, ctx.spec)
        wanted = [i for i in ctx.places if leaves[i].requires_grad]
        with torch.enable_grad():
            axes = _pytree.tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, args)
            out = vmap(compute, in_dims=(axes,))(args) if args[-3] else compute(args)
        reached = [(o, g) for o, g in zip(out, upstream, strict=True) if g is not None and o.requires_grad]
        found: list[Tensor | None] = [None] * len(leaves)
        if reached and wanted:
            outputs, grads = zip(*reached, strict=True)
            inputs = [leaves[i] for i in wanted]
            by_input = torch.autograd.grad(outputs, inputs, grads, allow_unused=True, create_graph=again)
            for i, grad in zip(wanted, by_input, strict=True):
                found[i] = grad
        return (*_pytree.tree_unflatten(found, ctx.spec)[:-3], None, None, None)

    return backward


for _op, _fast, _shapes, _compute in (
    ("remember", _remember_fast, _remember_shapes, _remember_reference),
    ("respond", _respond_fast, _respond_shapes, _respond_reference),
):
    for _key in ("CPU", "CUDA"):
        _library.impl(_op, _fast, _key)
    torch.library.register_fake(f"l2o::{_op}", _shapes)
    torch.library.register_autograd(f"l2o::{_op}", _derivative(_compute), setup_context=_save)
    torch.library.register_vmap(f"l2o::{_op}", batched(getattr(torch.ops.l2o, _op)))

"""`measure`, `move` and `advance` of coordinate_mlp.py for CUDA tensors; importing this file imports Triton.

Each kernel is launched once for all tensors of a kind, from a table of their pointers and a table of blocks, of which
every program takes one. In the order of launches, with the bytes read and written for each coordinate:

    measure   sum_squares         4         rows and columns of g^2, partial sums of every block
              update_statistics   -         new factored averages
              mean_rows           -         their means, for f
              measure_tiles       24 + 16   the moments, new momenta and second moments (which `later` leaves out)
    move      mean_rows, move_tiles  24 + 4   the network
              scale_tiles         4 + 4     only if steps are normalised
    advance   advance_tiles       20 + 16

Sums are made in an order that depends on shapes and alignment alone, so a step is the same every time. Nothing waits
for the device.
With TRITON_INTERPRET=1, set before Triton is imported, the same kernels run on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from l2o.kernels import coordinate_mlp_measure as measuring
from l2o.kernels import coordinate_mlp_move as moving
from l2o.kernels import coordinate_mlp_tiles as tiles
from l2o.kernels.coordinate_mlp import NUM_MOMENTS, Averages, Network, unwritten, unwritten_statistics
from l2o.kernels.coordinate_mlp_plan import MATRIX, OUTER_ROWS, ROWS, Plan, plan_for
from l2o.kernels.recording import is_recording, keep

RESIDUAL = 6
"""The feature that may be added to a step."""


def measure(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    averages: Sequence[Averages],
    rates: Tensor,
    network: Network,
    lanes: int = 0,
    later: bool = False,
) -> tuple[list[Averages], Tensor]:
    """The averages after one more gradient, and the moments of all tensors; see `coordinate_mlp.measure`."""
    make = unwritten_statistics if later else unwritten
    new = [make(old) for old in averages]
    moments = rates.new_empty(*rates.shape[:-1], len(params), NUM_MOMENTS)
    num_lanes, plan = max(lanes, 1), _plan(params, lanes)
    with _on(rates.device):
        table, aligned = _table(params, grads, averages, None, new, plan)
        sums, means = rates.new_empty(num_lanes, plan.num_sums), rates.new_empty(num_lanes, plan.num_means)
        parts = rates.new_zeros(num_lanes, plan.num_parts, NUM_MOMENTS)
        common: Any = (table, plan.shapes)
        for kind in plan.kinds:
            if kind.sums is not None:
                _launch(measuring.sum_squares, kind.sums, lanes)(
                    *common,
                    kind.sums,
                    sums,
                    plan.num_sums,
                    network.max_gradient,
                    kind=kind.kind,
                    aligned=aligned and kind.in_fours and kind.kind == MATRIX,
                    rows=ROWS,
                )
            if kind.outer_sums is not None:
                _launch(measuring.sum_squares_outer, kind.outer_sums, lanes)(
                    *common,
                    kind.outer_sums,
                    sums,
                    plan.num_sums,
                    network.max_gradient,
                    index=plan.index,
                    rows=OUTER_ROWS,
                    wide=32,
                )
        if plan.statistics is not None:
            _launch(measuring.update_statistics, plan.statistics, lanes)(
                *common, plan.statistics, rates, sums, plan.num_sums, parts, plan.num_parts * NUM_MOMENTS, rows=ROWS
            )
        _mean_rows(plan, table, means, lanes, new=True)
        for kind in plan.kinds:
            _launch(measuring.measure_tiles, kind.blocks, lanes)(
                *common,
                kind.blocks,
                rates,
                means,
                plan.num_means,
                parts,
                plan.num_parts * NUM_MOMENTS,
                network.max_gradient,
                network.eps_second,
                network.eps_diagonal,
                network.eps_square,
                kind=kind.kind,
                writes=not later,
                half=_is_half(averages),
                aligned=aligned and kind.in_fours,
                index=plan.index,
                rows=ROWS if aligned and kind.in_fours else 2,
            )
        _sum_parts(plan, parts, moments, NUM_MOMENTS, lanes)
    return new, moments


def move(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    averages: Sequence[Averages],
    moments: Tensor,
    layers: Tensor,
    sizes: Tensor | None,
    network: Network,
    lanes: int = 0,
    rates: Tensor | None = None,
) -> list[Tensor]:
    """The step of every tensor; see `coordinate_mlp.move`."""
    updates = [torch.empty_like(p) for p in params]
    num_lanes, plan = max(lanes, 1), _plan(params, lanes)
    with _on(moments.device):
        table, aligned = _table(params, grads, averages, updates, None, plan)
        net = _net(moments, layers, sizes, network)
        means = moments.new_empty(num_lanes, plan.num_means)
        parts = moments.new_zeros(num_lanes, plan.num_parts if network.normalize else 0)
        _mean_rows(plan, table, means, lanes, new=False)
        rows, num_warps = _tile(network.hidden)
        for kind in plan.kinds:
            _launch(moving.move_tiles, kind.blocks, lanes)(
                table,
                plan.shapes,
                kind.blocks,
                moments if rates is None else rates,
                means,
                plan.num_means,
                net,
                net.shape[-1],
                len(params),
                parts,
                plan.num_parts,
                network.max_gradient,
                network.eps_second,
                network.magnitude_scale,
                network.eps_diagonal,
                kind=kind.kind,
                later=rates is not None,
                half=_is_half(averages),
                hidden=network.hidden,
                num_layers=network.num_layers,
                num_outputs=network.num_outputs,
                extended=network.extended,
                residual=network.residual,
                normalize=network.normalize,
                masked=network.masked,
                aligned=aligned and kind.in_fours,
                index=plan.index,
                rows=rows,
                num_warps=num_warps,
            )
        if network.normalize:
            norms = moments.new_empty(num_lanes, len(params))
            _sum_parts(plan, parts, norms, 1, lanes)
            for flat in plan.flat:
                _launch(moving.scale_tiles, flat.blocks, lanes)(
                    table,
                    plan.shapes,
                    flat.blocks,
                    moments,
                    norms,
                    net,
                    net.shape[-1],
                    len(params),
                    aligned=aligned and flat.in_fours,
                    rows=ROWS,
                )
    return updates


def advance(
    grads: Sequence[Tensor], averages: Sequence[Averages], rates: Tensor, network: Network, seed: int = 0
) -> None:
    """Bring momenta and second moments up to date in place; see `coordinate_mlp.advance`."""
    plan = _plan(grads, 0)
    with _on(rates.device):
        table, aligned = _table(grads, grads, averages, None, None, plan)
        for flat in plan.flat:
            _launch(moving.advance_tiles, flat.blocks, 0)(
                table,
                plan.shapes,
                flat.blocks,
                rates,
                network.max_gradient,
                seed,
                half=_is_half(averages),
                aligned=aligned and flat.in_fours,
                rows=ROWS,
            )


def _plan(params: Sequence[Tensor], lanes: int) -> Plan:
    shapes = tuple(tuple(p.shape[1:] if lanes else p.shape) for p in params)
    return keep(plan_for(shapes, max(lanes, 1), params[0].device))


def _is_half(averages: Sequence[Averages]) -> bool:
    return averages[0].momenta.dtype == torch.bfloat16


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _launch(kernel: Any, blocks: Tensor, lanes: int) -> Any:
    return kernel[(len(blocks), max(lanes, 1))]


def _mean_rows(plan: Plan, table: Tensor, means: Tensor, lanes: int, new: bool) -> None:
    if plan.groups is not None:
        columns = (tiles.NEW_OUTER, tiles.NEW_INNER) if new else (tiles.OUTER, tiles.INNER)
        outer, inner = (int(x.value) for x in columns)
        _launch(measuring.mean_rows, plan.groups, lanes)(
            table, plan.shapes, plan.groups, means, plan.num_means, outer, inner, wide=512
        )


def _sum_parts(plan: Plan, parts: Tensor, out: Tensor, width: int, lanes: int) -> None:
    wide = 1 << (width - 1).bit_length()
    _launch(moving.sum_parts, plan.shapes, lanes)(
        plan.shapes, parts, plan.num_parts * width, out, len(plan.shapes), width=width, wide=wide, rows=2048 // wide
    )


def _tile(hidden: int) -> tuple[int, int]:
    """Rows of a tile, and warps: the more hidden units, the fewer coordinates a thread can hold."""
    return (8, 4) if hidden <= 8 else (4, 4) if hidden <= 16 else (2, 4)


def _net(moments: Tensor, layers: Tensor, sizes: Tensor | None, network: Network) -> Tensor:
    """A row for each tensor: the network, its first layer (inputs, hidden) and times the features' scales, then the
    scale of the residual and the size of the step."""
    num_inputs = 30 if network.extended else 28
    scale = torch.rsqrt(moments[..., :num_inputs] + network.eps)
    if layers.ndim < moments.ndim:
        layers = layers.unsqueeze(-2)
    flat = layers.expand(*moments.shape[:-1], -1)
    split = network.hidden * num_inputs
    first = flat[..., :split].unflatten(-1, (network.hidden, num_inputs)).mT * scale.unsqueeze(-1)
    residual = scale[..., RESIDUAL, None]
    size = torch.full_like(residual, network.size) if sizes is None else network.size * sizes.unsqueeze(-1)
    return torch.cat([first.flatten(-2), flat[..., split:], residual, size], dim=-1)


def _table(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    averages: Sequence[Averages],
    updates: Sequence[Tensor] | None,
    new: Sequence[Averages] | None,
    plan: Plan,
) -> tuple[Tensor, bool]:
    """Pointers of every tensor, on the device; whether all but those of statistics are multiples of 16 bytes."""
    rows, in_line = [], 0
    for i, row_is_outer in enumerate(plan.rows_are_outer):
        main = [x.data_ptr() for x in (params[i], grads[i], averages[i].momenta, averages[i].second)]
        update = 0 if updates is None else updates[i].data_ptr()
        made = [0, 0] if new is None else [new[i].momenta.data_ptr(), new[i].second.data_ptr()]
        after = (0, 0) if new is None else _statistics(new[i], row_is_outer)
        for pointer in (*main, update, *made):
            in_line |= pointer
        rows.append((*main, *_statistics(averages[i], row_is_outer), update, *made, *after))
    device = plan.shapes.device
    if is_recording():
        return keep(_copied_apart(rows, device)), in_line % 16 == 0
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    return _copied(tuple(rows), device, stream), in_line % 16 == 0


def _statistics(averages: Averages, row_is_outer: bool) -> tuple[int, int]:
    """Pointers to the outer and the inner statistic, or to the plain average."""
    row, column = averages.row.data_ptr(), 0 if averages.column is None else averages.column.data_ptr()
    return (row, column) if row_is_outer or not column else (column, row)


@lru_cache(maxsize=64)
def _copied(rows: tuple[tuple[int, ...], ...], device: torch.device, stream: int) -> Tensor:
    """A table on the device; allocators give the same pointers again and again, so most are there already.

    The copy is queued on `stream`, and what is queued after it there finds it done.
    """
    table = torch.tensor(rows, dtype=torch.int64, pin_memory=device.type == "cuda")
    return table.to(device, non_blocking=True)


def _copied_apart(rows: list[tuple[int, ...]], device: torch.device) -> Tensor:
    """A table on the device, by a stream of its own: what a graph copies while it is recorded, it copies again."""
    with torch.cuda.stream(torch.cuda.Stream(device)):
        return torch.tensor(rows, dtype=torch.int64).to(device)  # there when this returns

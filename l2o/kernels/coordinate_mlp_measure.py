"""Triton kernels of `measure`: new averages, and the moments of all tensors (see coordinate_mlp_triton.py)."""

# ruff: noqa: RUF005  Triton knows sums of tuples, not (*x, y)
from __future__ import annotations

from typing import no_type_check  # types of kernels are Triton's business

import triton.language as tl

from l2o.kernels.coordinate_mlp_tiles import (
    BC,
    BLOCK_ROWS,
    COLUMN,
    COLUMNS,
    GROUPS_AT,
    IN_COL,
    IN_MF,
    IN_RCOL,
    IN_ROW,
    IN_RROW,
    INNER,
    INNER_AT,
    INNER_PARTS,
    MATRIX,
    NEW_INNER,
    NEW_M,
    NEW_OUTER,
    NEW_V,
    NUM_BLOCK,
    NUM_GROUPS,
    NUM_INNER,
    NUM_MOMENTS,
    NUM_OUTER,
    NUM_SHAPES,
    OUTER,
    OUTER_AT,
    OUTER_PARTS,
    PART,
    ROW,
    ROW_IS_OUTER,
    S1,
    S2,
    SIZE,
    SLAB,
    VECTOR,
    WHICH,
    C,
    G,
    M,
    P,
    V,
    bounded,
    fold,
    gather,
    kernel,
    line_of,
    load_average,
    load_statistics,
    pointer_to,
    scales_of,
    size_of,
    tally,
    tile_of,
)


@kernel
@no_type_check
def sum_squares(
    table, shapes, blocks, sums, lane_sums, max_gradient, kind: tl.constexpr, aligned: tl.constexpr, rows: tl.constexpr
):
    """Sums of squares of the gradient over S1 and, of a matrix, over S2: of this block's rows and columns."""
    block = blocks + tl.program_id(0).to(tl.int64) * NUM_BLOCK
    tensor, which, row = tl.load(block), tl.load(block + WHICH), tl.load(block + ROW)
    column = tl.multiple_of(tl.load(block + COLUMN), COLUMNS)
    lane, shape = tl.program_id(1).to(tl.int64), shapes + tensor * NUM_SHAPES
    num_outer, num_inner, s1 = tl.load(shape + NUM_OUTER), tl.load(shape + NUM_INNER), tl.load(shape + S1)
    block_rows = tl.load(shape + BLOCK_ROWS)
    g = line_of(table, tensor, G, lane * size_of(shape, aligned), aligned)
    sums += lane * lane_sums
    outer = sums + tl.load(shape + OUTER_AT) + column // COLUMNS * num_outer + which * s1
    inner = sums + tl.load(shape + INNER_AT) + row // block_rows * num_inner + which * tl.load(shape + SLAB)
    total = tl.zeros((rows, COLUMNS), tl.float32)
    for at_row in range(row, tl.minimum(row + block_rows, s1), rows):
        at, _r, mask = tile_of(shape, which, at_row, column, MATRIX, rows, aligned)
        x = bounded(tl.load(g + at, mask=mask, other=0.0), max_gradient)
        total += x * x
        if kind == MATRIX:
            places = at_row + tl.arange(0, rows)
            tl.store(outer + places, tl.sum(x * x, axis=1), mask=places < s1)
    c = column + tl.arange(0, COLUMNS)
    tl.store(inner + c, tl.sum(total, axis=0), mask=c < tl.load(shape + SLAB))


@kernel
@no_type_check
def sum_squares_outer(
    table, shapes, blocks, sums, lane_sums, max_gradient, index: tl.constexpr, rows: tl.constexpr, wide: tl.constexpr
):
    """Sums of squares of the gradient over S2, for `rows` places of the outer statistic of a tensor of any shape."""
    block = blocks + tl.program_id(0).to(tl.int64) * NUM_BLOCK
    tensor, lane = tl.load(block), tl.program_id(1).to(tl.int64)
    shape = shapes + tensor * NUM_SHAPES
    s2, c, num_outer = tl.load(shape + S2), tl.load(shape + C), tl.load(shape + NUM_OUTER)
    g = pointer_to(table, tensor, G) + lane * tl.load(shape + SIZE)
    o = tl.load(block + ROW) + tl.arange(0, rows)
    line = (o.to(index) // c.to(index)).to(tl.int64)
    start = line * (s2 * c) + (o - line * c)
    total = tl.zeros((rows, wide), tl.float32)
    for begin in range(0, s2, wide):
        s = begin + tl.arange(0, wide)
        mask = (o < num_outer)[:, None] & (s < s2)[None, :]
        x = tl.load(g + start[:, None] + (s * c)[None, :], mask=mask, other=0.0)
        x = bounded(x, max_gradient)
        total += x * x
    tl.store(sums + lane * lane_sums + tl.load(shape + OUTER_AT) + o, tl.sum(total, axis=1), mask=o < num_outer)


@kernel
@no_type_check
def update_statistics(table, shapes, blocks, rates, sums, lane_sums, parts, lane_parts, rows: tl.constexpr):
    """New averages at COLUMNS places of a factored statistic, and what they contribute to the moments."""
    block = blocks + tl.program_id(0).to(tl.int64) * NUM_BLOCK
    tensor, is_outer = tl.load(block), tl.load(block + WHICH) == 1
    lane, shape = tl.program_id(1).to(tl.int64), shapes + tensor * NUM_SHAPES
    num = tl.load(shape + tl.where(is_outer, NUM_OUTER, NUM_INNER))
    num_summed = tl.load(shape + tl.where(is_outer, S2, S1))
    num_parts = tl.load(shape + tl.where(is_outer, OUTER_PARTS, INNER_PARTS))
    sums += lane * lane_sums + tl.load(shape + tl.where(is_outer, OUTER_AT, INNER_AT))
    at = tl.load(block + ROW) + tl.arange(0, COLUMNS)
    total = tl.zeros((rows, COLUMNS), tl.float32)
    for part in range(0, num_parts, rows):
        r = part + tl.arange(0, rows)
        mask = (r < num_parts)[:, None] & (at < num)[None, :]
        total += tl.load(sums + r[:, None] * num + at[None, :], mask=mask, other=0.0)
    mean = tl.sum(total, axis=0) / num_summed.to(tl.float32)
    old = pointer_to(table, tensor, tl.where(is_outer, OUTER, INNER)) + lane * 3 * num
    new = pointer_to(table, tensor, tl.where(is_outer, NEW_OUTER, NEW_INNER)) + lane * 3 * num
    parts += lane * lane_parts + tl.load(block + PART) * NUM_MOMENTS
    is_row = (tl.load(shape + ROW_IS_OUTER) == 1) == is_outer
    plain, root = tl.where(is_row, IN_ROW, IN_COL), tl.where(is_row, IN_RROW, IN_RCOL)
    by = 1.0 / num.to(tl.float32)
    for k in tl.static_range(3):
        x = tl.load(old + k * num + at, mask=at < num, other=0.0)
        x += tl.load(rates + lane * 7 + 4 + k) * (mean - x)
        tl.store(new + k * num + at, x, mask=at < num)
        tl.store(parts + plain + k, tl.sum(x * x) * by)
        tl.store(parts + root + k, tl.sum(tl.where(at < num, 1.0 / (x + 1e-8), 0.0)) * by)


@kernel
@no_type_check
def mean_rows(table, shapes, blocks, means, lane_means, column_outer, column_inner, wide: tl.constexpr):
    """Mean of a row statistic over its factored dimension, at one (a, b, c)."""
    block = blocks + tl.program_id(0).to(tl.int64) * NUM_BLOCK
    tensor, group = tl.load(block), tl.load(block + WHICH)
    lane, shape = tl.program_id(1).to(tl.int64), shapes + tensor * NUM_SHAPES
    c, bc = tl.load(shape + C), tl.load(shape + BC)
    is_outer = tl.load(shape + ROW_IS_OUTER) == 1
    num = tl.load(shape + tl.where(is_outer, NUM_OUTER, NUM_INNER))
    n = tl.load(shape + tl.where(is_outer, S1, S2))
    stride = tl.where(is_outer, bc, c)
    start = group // stride * n * stride + group % stride
    x = pointer_to(table, tensor, tl.where(is_outer, column_outer, column_inner)) + lane * 3 * num + start
    means += lane * lane_means + tl.load(shape + GROUPS_AT) + group
    num_groups = tl.load(shape + NUM_GROUPS)
    for k in tl.static_range(3):
        total = tl.zeros((wide,), tl.float32)
        for begin in range(0, n, wide):
            s = begin + tl.arange(0, wide)
            total += tl.load(x + k * num + s * stride, mask=s < n, other=0.0)
        tl.store(means + k * num_groups, tl.sum(total) / n.to(tl.float32))


@kernel
@no_type_check
def measure_tiles(
    table,
    shapes,
    blocks,
    rates,
    means,
    lane_means,
    parts,
    lane_parts,
    max_gradient,
    eps_second,
    eps_diagonal,
    eps_square,
    kind: tl.constexpr,
    writes: tl.constexpr,
    half: tl.constexpr,
    aligned: tl.constexpr,
    index: tl.constexpr,
    rows: tl.constexpr,
):
    """New momenta and second moments, of a vector all averages, and sums of squares of all but statistics."""
    block = blocks + tl.program_id(0).to(tl.int64) * NUM_BLOCK
    tensor, which, row = tl.load(block), tl.load(block + WHICH), tl.load(block + ROW)
    column = tl.multiple_of(tl.load(block + COLUMN), COLUMNS)
    lane, shape = tl.program_id(1).to(tl.int64), shapes + tensor * NUM_SHAPES
    size, num_outer, num_inner = size_of(shape, aligned), tl.load(shape + NUM_OUTER), tl.load(shape + NUM_INNER)
    p_in = line_of(table, tensor, P, lane * size, aligned)
    g_in = line_of(table, tensor, G, lane * size, aligned)
    m_in = line_of(table, tensor, M, lane * 3 * size, aligned, half)
    v_in = line_of(table, tensor, V, lane * size, aligned, half)
    m_out = line_of(table, tensor, NEW_M, lane * 3 * size, aligned, half)
    v_out = line_of(table, tensor, NEW_V, lane * size, aligned, half)
    outer, inner = pointer_to(table, tensor, OUTER), pointer_to(table, tensor, INNER)
    d_out = outer
    if kind == VECTOR:
        outer += lane * 3 * size
        d_out = pointer_to(table, tensor, NEW_OUTER) + lane * 3 * size
    else:
        outer = pointer_to(table, tensor, NEW_OUTER) + lane * 3 * num_outer
        inner = pointer_to(table, tensor, NEW_INNER) + lane * 3 * num_inner
    means += lane * lane_means + tl.load(shape + GROUPS_AT)
    num_groups, is_outer = tl.load(shape + NUM_GROUPS), tl.load(shape + ROW_IS_OUTER) == 1
    rates += lane * 7
    rate_v = tl.load(rates + 3)
    scale_in = ()
    if kind == MATRIX:
        c = (column + tl.arange(0, COLUMNS))[None, :]
        slab = tl.load(shape + SLAB)
        scale_in = scales_of(
            load_statistics(inner, num_inner, which * slab + c, c < slab), not is_outer, means, num_groups, which
        )
    sums = ()
    for _q in tl.static_range(29 if kind == VECTOR else 23):
        sums = sums + (fold(tl.zeros((rows, COLUMNS), tl.float32), rows, aligned),)
    last = tl.load(shape + S1) if kind == MATRIX else tl.cdiv(size, COLUMNS)
    for at_row in range(row, tl.minimum(row + tl.load(shape + BLOCK_ROWS), last), rows):
        at, r, mask = tile_of(shape, which, at_row, column, kind, rows, aligned)
        g = bounded(tl.load(g_in + at, mask=mask, other=0.0), max_gradient)
        p = tl.load(p_in + at, mask=mask, other=0.0)
        v = load_average(v_in + at, mask, half)
        square = g * g
        v += rate_v * (square - v)
        inverse = tl.where(mask, tl.rsqrt(v + eps_second), 0.0)
        if writes:
            tl.store(v_out + at, v, mask=mask)
        m, m2, mr2 = (), (), ()
        for k in tl.static_range(3):
            x = load_average(m_in + k * size + at, mask, half)
            x += tl.load(rates + k) * (g - x)
            if writes:
                tl.store(m_out + k * size + at, x, mask=mask)
            m, m2, mr2 = m + (x,), m2 + (x * x,), mr2 + (x * inverse * (x * inverse),)
        gf2, mf2, d2, dr2 = (), (), (), ()
        if kind == VECTOR:
            for k in tl.static_range(3):
                x = tl.load(outer + k * size + at, mask=mask, other=0.0)
                x += tl.load(rates + 4 + k) * (tl.where(mask, square + eps_square, 0.0) - x)
                tl.store(d_out + k * size + at, x, mask=mask)
                gf2, mf2 = gf2 + (square / (x + 1e-9),), mf2 + (m2[k] / tl.where(mask, x + eps_diagonal, 1.0),)
                d2, dr2 = d2 + (x * x,), dr2 + (tl.where(mask, 1.0 / (x + 1e-8), 0.0),)
        else:
            if kind == MATRIX:
                x = load_statistics(outer, num_outer, which * last + r, r < last)
                scale_1, scale_2 = scales_of(x, is_outer, means, num_groups, which), scale_in
            else:
                at_outer, at_inner, group = gather(shape, tl.where(mask, at, 0), index)
                x = load_statistics(outer, num_outer, at_outer, mask)
                y = load_statistics(inner, num_inner, at_inner, mask)
                scale_1 = scales_of(x, is_outer, means, num_groups, group)
                scale_2 = scales_of(y, not is_outer, means, num_groups, group)
            for k in tl.static_range(3):
                f = scale_1[k] * scale_2[k]
                gf2, mf2 = gf2 + (g * f * (g * f),), mf2 + (m[k] * f * (m[k] * f),)
        clip, gr = bounded(g, 0.1), g * inverse
        moved = tl.where(m[2] != 0.0, 1.0, 0.0)
        values = (square, p * p) + m2 + (v * v,) + mr2 + (inverse * inverse,) + gf2
        values = values + mf2 + (clip * clip, gr * gr) + m + (v, moved) + d2 + dr2
        sums = tally(sums, values, rows, aligned)
    parts += lane * lane_parts + tl.load(block + PART) * NUM_MOMENTS
    by = 1.0 / size.to(tl.float32)
    for q in tl.static_range(len(sums)):
        total = tl.sum(sums[q]) * by
        if q < 13:
            tl.store(parts + q, total)
        elif q < 23:
            tl.store(parts + (q + IN_MF - 13), total)
        else:  # row and column are the same here
            start = q - 23 + (IN_ROW if q < 26 else IN_RROW - 3)
            tl.store(parts + start, total)
            tl.store(parts + start + 3, total)

"""Triton kernels of `move` and `advance`: steps, averages in place (see coordinate_mlp_triton.py)."""

# ruff: noqa: RUF005  Triton knows sums of tuples, not (*x, y)
from __future__ import annotations

from typing import no_type_check  # types of kernels are Triton's business

import triton.language as tl

from l2o.kernels.coordinate_mlp_tiles import (
    BLOCK_ROWS,
    COLUMN,
    COLUMNS,
    FLAT,
    GROUPS_AT,
    IN_CLIP,
    IN_GF,
    IN_M,
    IN_MF,
    IN_MR,
    IN_P,
    IN_R,
    IN_V,
    INNER,
    MATRIX,
    MOVED,
    NAN,
    NUM_BLOCK,
    NUM_GROUPS,
    NUM_INNER,
    NUM_MOMENTS,
    NUM_OUTER,
    NUM_PARTS,
    NUM_SHAPES,
    OUTER,
    PART,
    PARTS_AT,
    ROW,
    ROW_IS_OUTER,
    S1,
    SLAB,
    VECTOR,
    WHICH,
    G,
    M,
    P,
    U,
    V,
    add_feature,
    add_statistics,
    bounded,
    gather,
    kernel,
    layer,
    line_of,
    load_average,
    load_statistics,
    pointer_to,
    random_bits,
    scales_of,
    size_of,
    splat,
    store_average,
    tile_of,
)


@kernel
@no_type_check
def sum_parts(shapes, parts, lane_parts, out, num_tensors, width: tl.constexpr, wide: tl.constexpr, rows: tl.constexpr):
    """The sum of a tensor's partial sums, each `width` numbers."""
    tensor, lane = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    shape = shapes + tensor * NUM_SHAPES
    num, q = tl.load(shape + NUM_PARTS), tl.arange(0, wide)
    parts += lane * lane_parts + tl.load(shape + PARTS_AT) * width
    total = tl.zeros((rows, wide), tl.float64)
    for begin in range(0, num, rows):
        r = begin + tl.arange(0, rows)
        mask = (r < num)[:, None] & (q < width)[None, :]
        total += tl.load(parts + r[:, None] * width + q[None, :], mask=mask, other=0.0).to(tl.float64)
    tl.store(out + (lane * num_tensors + tensor) * width + q, tl.sum(total, axis=0).to(tl.float32), mask=q < width)


@kernel
@no_type_check
def move_tiles(
    table,
    shapes,
    blocks,
    rates,
    means,
    lane_means,
    net,
    net_width,
    num_tensors,
    parts,
    lane_parts,
    max_gradient,
    eps_second,
    magnitude_scale,
    eps_diagonal,
    kind: tl.constexpr,
    later: tl.constexpr,
    half: tl.constexpr,
    hidden: tl.constexpr,
    num_layers: tl.constexpr,
    num_outputs: tl.constexpr,
    extended: tl.constexpr,
    residual: tl.constexpr,
    normalize: tl.constexpr,
    masked: tl.constexpr,
    aligned: tl.constexpr,
    index: tl.constexpr,
    rows: tl.constexpr,
):
    """Steps, those to be normalised as they are, and the sum of their squares."""
    block = blocks + tl.program_id(0).to(tl.int64) * NUM_BLOCK
    tensor, which, row = tl.load(block), tl.load(block + WHICH), tl.load(block + ROW)
    column = tl.multiple_of(tl.load(block + COLUMN), COLUMNS)
    lane, shape = tl.program_id(1).to(tl.int64), shapes + tensor * NUM_SHAPES
    size, num_outer, num_inner = size_of(shape, aligned), tl.load(shape + NUM_OUTER), tl.load(shape + NUM_INNER)
    p_in = line_of(table, tensor, P, lane * size, aligned)
    g_in = line_of(table, tensor, G, lane * size, aligned)
    m_in = line_of(table, tensor, M, lane * 3 * size, aligned, half)
    v_in = line_of(table, tensor, V, lane * size, aligned, half)
    u_out = line_of(table, tensor, U, lane * size, aligned)
    outer = pointer_to(table, tensor, OUTER) + lane * 3 * (size if kind == VECTOR else num_outer)
    inner = pointer_to(table, tensor, INNER) + lane * 3 * num_inner
    means += lane * lane_means + tl.load(shape + GROUPS_AT)
    num_groups, is_outer = tl.load(shape + NUM_GROUPS), tl.load(shape + ROW_IS_OUTER) == 1
    rates += lane * 7
    w = net + (lane * num_tensors + tensor) * net_width
    num_inputs: tl.constexpr = 30 if extended else 28
    bias = w + num_inputs * hidden
    own = w + (net_width - 2)  # the scale of the residual, the size of the step
    z_in, scale_in = (), ()
    if kind == MATRIX:
        c = (column + tl.arange(0, COLUMNS))[None, :]
        slab = tl.load(shape + SLAB)
        x_in = load_statistics(inner, num_inner, which * slab + c, c < slab)
        scale_in = scales_of(x_in, not is_outer, means, num_groups, which)
        z_in = add_statistics(splat(bias, (1, COLUMNS), hidden), w, not is_outer, x_in, hidden)
    total = tl.zeros((rows, COLUMNS), tl.float32)
    last = tl.load(shape + S1) if kind == MATRIX else tl.cdiv(size, COLUMNS)
    for at_row in range(row, tl.minimum(row + tl.load(shape + BLOCK_ROWS), last), rows):
        at, r, mask = tile_of(shape, which, at_row, column, kind, rows, aligned)
        g = bounded(tl.load(g_in + at, mask=mask, other=0.0), max_gradient)
        p = tl.load(p_in + at, mask=mask, other=0.0)
        v = load_average(v_in + at, mask, half)
        if later:
            v += tl.load(rates + 3) * (g * g - v)
        m = ()
        for k in tl.static_range(3):
            y = load_average(m_in + k * size + at, mask, half)
            m = m + (y + tl.load(rates + k) * (g - y) if later else y,)
        if kind == MATRIX:
            x = load_statistics(outer, num_outer, which * last + r, r < last)
            scale_1, scale_2 = scales_of(x, is_outer, means, num_groups, which), scale_in
            z_out = ()
            for _q in tl.static_range(hidden):
                z_out = z_out + (tl.zeros((rows, 1), tl.float32),)
            z_out = add_statistics(z_out, w, is_outer, x, hidden)
            z = ()
            for h in tl.static_range(hidden):
                z = z + (z_out[h] + z_in[h],)
        else:
            z = splat(bias, (rows, COLUMNS), hidden)
        if kind == FLAT:
            at_outer, at_inner, group = gather(shape, tl.where(mask, at, 0), index)
            x = load_statistics(outer, num_outer, at_outer, mask)
            x_in = load_statistics(inner, num_inner, at_inner, mask)
            scale_1 = scales_of(x, is_outer, means, num_groups, group)
            scale_2 = scales_of(x_in, not is_outer, means, num_groups, group)
            z = add_statistics(z, w, is_outer, x, hidden)
            z = add_statistics(z, w, not is_outer, x_in, hidden)
        if kind == VECTOR:
            x = load_statistics(outer, size, at, mask)
            z = add_statistics(z, w, True, x, hidden)
            z = add_statistics(z, w, False, x, hidden)
        inverse = tl.rsqrt(v + eps_second)
        z = add_feature(add_feature(z, w, g, hidden), w + IN_P * hidden, p, hidden)
        z = add_feature(add_feature(z, w + IN_V * hidden, v, hidden), w + IN_R * hidden, inverse, hidden)
        if extended:
            z = add_feature(z, w + IN_CLIP * hidden, bounded(g, 0.1), hidden)
            z = add_feature(z, w + (IN_CLIP + 1) * hidden, g * inverse, hidden)
        for k in tl.static_range(3):
            z = add_feature(z, w + (IN_M + k) * hidden, m[k], hidden)
            z = add_feature(z, w + (IN_MR + k) * hidden, m[k] * inverse, hidden)
            if kind == VECTOR:
                g_scale, m_scale = tl.rsqrt(x[k] + 1e-9), tl.rsqrt(tl.where(mask, x[k] + eps_diagonal, 1.0))
            else:
                g_scale = scale_1[k] * scale_2[k]
                m_scale = g_scale
            z = add_feature(z, w + (IN_GF + k) * hidden, g * g_scale, hidden)
            z = add_feature(z, w + (IN_MF + k) * hidden, m[k] * m_scale, hidden)
        for i in tl.static_range(num_layers - 1):
            z = layer(z, bias + hidden + i * (hidden + 1) * hidden, hidden, hidden)
        outputs = layer(z, bias + hidden + (num_layers - 1) * (hidden + 1) * hidden, hidden, num_outputs)
        step = outputs[0]
        if num_outputs == 2:
            step *= tl.exp(magnitude_scale * outputs[1])
        if residual:
            step += tl.load(own) * (m[0] * inverse)
        if masked:
            step = tl.where(m[2] != 0.0, step, 0.0)
        if not normalize:
            step *= tl.load(own + 1)
        if normalize:
            total += step * step
        tl.store(u_out + at, step, mask=mask)
    if normalize:
        tl.store(parts + lane * lane_parts + tl.load(block + PART), tl.sum(total))


@kernel
@no_type_check
def scale_tiles(
    table, shapes, blocks, moments, norms, net, net_width, num_tensors, aligned: tl.constexpr, rows: tl.constexpr
):
    """Steps scaled to unit root mean square over the coordinates that may move, times their size."""
    block = blocks + tl.program_id(0).to(tl.int64) * NUM_BLOCK
    tensor, row, lane = tl.load(block), tl.load(block + ROW), tl.program_id(1).to(tl.int64)
    shape, item = shapes + tensor * NUM_SHAPES, lane * num_tensors + tensor
    size = size_of(shape, aligned)
    u = line_of(table, tensor, U, lane * size, aligned)
    count = tl.load(moments + item * NUM_MOMENTS + MOVED) * size.to(tl.float32)
    count = tl.maximum(tl.floor(count + 0.5), 1.0, propagate_nan=NAN)
    by = tl.load(net + (item + 1) * net_width - 1) * tl.rsqrt(tl.load(norms + item) / count + 1e-9)
    for at_row in range(row, tl.minimum(row + tl.load(shape + BLOCK_ROWS), tl.cdiv(size, COLUMNS)), rows):
        at, _r, mask = tile_of(shape, 0, at_row, 0, FLAT, rows, aligned)
        tl.store(u + at, tl.load(u + at, mask=mask) * by, mask=mask)


@kernel
@no_type_check
def advance_tiles(
    table, shapes, blocks, rates, max_gradient, seed, half: tl.constexpr, aligned: tl.constexpr, rows: tl.constexpr
):
    """Momenta and second moments, in place."""
    block = blocks + tl.program_id(0).to(tl.int64) * NUM_BLOCK
    tensor, row = tl.load(block), tl.load(block + ROW)
    shape = shapes + tensor * NUM_SHAPES
    size = size_of(shape, aligned)
    g_in = line_of(table, tensor, G, 0, aligned)
    m, v = line_of(table, tensor, M, 0, aligned, half), line_of(table, tensor, V, 0, aligned, half)
    seed = (seed.to(tl.int64) * 1000003 + tensor).to(tl.uint32)
    for at_row in range(row, tl.minimum(row + tl.load(shape + BLOCK_ROWS), tl.cdiv(size, COLUMNS)), rows):
        at, _r, mask = tile_of(shape, 0, at_row, 0, FLAT, rows, aligned)
        g = bounded(tl.load(g_in + at, mask=mask, other=0.0), max_gradient)
        bits, bits2 = random_bits(seed, at), random_bits(seed ^ 0xFFFFFFFF, at)
        x = load_average(v + at, mask, half)
        store_average(v + at, x + tl.load(rates + 3) * (g * g - x), mask, bits, half)
        for k in tl.static_range(3):
            x = load_average(m + k * size + at, mask, half)
            random = bits >> 16 if k == 0 else bits2 if k == 1 else bits2 >> 16
            store_average(m + k * size + at, x + tl.load(rates + k) * (g - x), mask, random, half)

"""The Triton kernels behind coordinate_mlp_triton.py, which says how they are put together.

A program works on tiles of ROWS x COLUMNS coordinates of one tensor. Of a `MATRIX` (both factored dimensions innermost)
they are rows and columns, so what the factored statistics give is reckoned once a row and once a column; a `FLAT` tensor
of any shape, and a `VECTOR` without factored statistics, is read as if it were COLUMNS wide.

Tensors are seen as (A, S1, B, S2, C), S1 and S2 factored: the outer statistic has no S2, the inner one no S1. A slab is
the B x S2 x C coordinates at one (a, s1).
"""

from __future__ import annotations

from typing import no_type_check  # types of kernels are Triton's business

import triton
import triton.language as tl

VECTOR, FLAT, MATRIX = (tl.constexpr(kind) for kind in range(3))
COLUMNS = tl.constexpr(128)

# Columns of the table of pointers, and its width
P, G, M, V, OUTER, INNER, U, NEW_M, NEW_V, NEW_OUTER, NEW_INNER, NUM_POINTERS = (tl.constexpr(i) for i in range(12))

# Columns of the table of shapes: `..._AT` is a place in a workspace, `..._PARTS` a number of partial sums
(SIZE, S1, SLAB, S2, C, BC, NUM_OUTER, NUM_INNER, OUTER_AT, OUTER_PARTS, INNER_AT, INNER_PARTS) = (
    tl.constexpr(i) for i in range(12)
)
(NUM_GROUPS, GROUPS_AT, ROW_IS_OUTER, BLOCK_ROWS, PARTS_AT, NUM_PARTS, NUM_SHAPES) = (
    tl.constexpr(i) for i in range(12, 19)
)

# Columns of a table of blocks, one a program: which tensor, which a (or side, or group), where, which partial sum
TENSOR, WHICH, ROW, COLUMN, PART, NUM_BLOCK = (tl.constexpr(i) for i in range(6))

# The order of l2o.rules.features.stack_features, then the means of momenta and second moment (as coordinate_mlp.cpp)
IN_P, IN_M, IN_V, IN_MR, IN_R, IN_GF = (tl.constexpr(i) for i in (1, 2, 5, 6, 9, 10))
IN_ROW, IN_COL, IN_RROW, IN_RCOL, IN_MF, IN_CLIP = (tl.constexpr(i) for i in (13, 16, 19, 22, 25, 28))
MOVED, NUM_MOMENTS = tl.constexpr(34), tl.constexpr(35)

NAN = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit
@no_type_check
def _pointer(table, tensor, column):
    return tl.load(table + tensor * NUM_POINTERS + column).to(tl.pointer_type(tl.float32))


@triton.jit
@no_type_check
def _aligned(pointer, aligned: tl.constexpr):
    return tl.multiple_of(pointer, 16) if aligned else pointer


@triton.jit
@no_type_check
def _bounded(x, bound):
    return tl.minimum(tl.maximum(x, -bound, propagate_nan=NAN), bound, propagate_nan=NAN)


@triton.jit
@no_type_check
def _tile(shape, which, row, column, kind: tl.constexpr, rows: tl.constexpr, aligned: tl.constexpr):
    """Places of a tile's coordinates in their tensor, their rows and columns, and which of them exist."""
    r = (row + tl.arange(0, rows))[:, None]
    c = (column + tl.arange(0, COLUMNS))[None, :]
    if kind == MATRIX:
        s1, slab = tl.load(shape + S1), tl.load(shape + SLAB)
        slab = tl.multiple_of(slab, 4) if aligned else slab
        return (which * s1 + r) * slab + c, r, c, (r < s1) & (c < slab)
    at = r * COLUMNS + c
    return at, r, c, at < tl.load(shape + SIZE)


@triton.jit
@no_type_check
def _gather(shape, at, index: tl.constexpr):
    """Where the outer and the inner statistic, and the mean of the row statistic, of coordinates of any shape stand."""
    s1, slab = tl.load(shape + S1).to(index), tl.load(shape + SLAB).to(index)
    c, bc = tl.load(shape + C).to(index), tl.load(shape + BC).to(index)
    line = tl.load(shape + S2).to(index) * c
    at = at.to(index)
    a_s1 = at // slab
    j = at - a_s1 * slab
    b = j // line
    a, group = a_s1 // s1, b * c + (j - b * line) % c
    return a_s1 * bc + group, a * slab + j, a * bc + group


@triton.jit
@no_type_check
def _statistics(pointer, num, at, mask):
    x = ()
    for k in tl.static_range(3):
        x = x + (tl.load(pointer + k * num + at, mask=mask, other=0.0),)
    return x


@triton.jit
@no_type_check
def _scales(x, is_row, mean, num_groups, group):
    """What three statistics contribute to the factored scale f; a row statistic counts relative to its mean."""
    scales = ()
    for k in tl.static_range(3):
        by = tl.where(is_row, 1.0 / (tl.load(mean + k * num_groups + group) + 1e-9), 1.0)
        scales = scales + (tl.rsqrt(tl.maximum(x[k] * by, 1e-9, propagate_nan=NAN)),)
    return scales


@triton.jit
@no_type_check
def _add(z, w, x, hidden: tl.constexpr):
    """Each hidden unit with its weight times x."""
    out = ()
    for h in tl.static_range(hidden):
        out = out + (z[h] + tl.load(w + h) * x,)
    return out


@triton.jit
@no_type_check
def _add_statistics(z, w, is_row, x, hidden: tl.constexpr):
    """Each hidden unit with what the first layer makes of three statistics."""
    plain, root = w + tl.where(is_row, IN_ROW, IN_COL) * hidden, w + tl.where(is_row, IN_RROW, IN_RCOL) * hidden
    for k in tl.static_range(3):
        z = _add(z, plain + k * hidden, x[k], hidden)
        z = _add(z, root + k * hidden, tl.rsqrt(x[k] + 1e-8), hidden)
    return z


@triton.jit
@no_type_check
def _splat(w, shape: tl.constexpr, hidden: tl.constexpr):
    out = ()
    for h in tl.static_range(hidden):
        out = out + (tl.zeros(shape, tl.float32) + tl.load(w + h),)
    return out


@triton.jit
@no_type_check
def _layer(z, w, num_in: tl.constexpr, num_out: tl.constexpr):
    """Weights (outputs, inputs), then biases, of relu(z)."""
    y = ()
    for i in tl.static_range(num_in):
        y = y + (tl.maximum(z[i], 0.0, propagate_nan=NAN),)
    out = ()
    for o in tl.static_range(num_out):
        total = tl.load(w + num_in * num_out + o) + tl.load(w + o * num_in) * y[0]
        for i in tl.static_range(1, num_in):
            total += tl.load(w + o * num_in + i) * y[i]
        out = out + (total,)
    return out


@triton.jit
@no_type_check
def _fold(x, rows: tl.constexpr):
    """Sums of four neighbours, which one thread holds."""
    return tl.sum(tl.reshape(x, (rows, COLUMNS // 4, 4)), axis=2)


@triton.jit
@no_type_check
def _tally(sums, values, rows: tl.constexpr):
    out = ()
    for q in tl.static_range(len(values)):
        out = out + (sums[q] + _fold(values[q], rows),)
    return out


@triton.jit
@no_type_check
def sum_squares(
    table, shapes, blocks, sums, lane_sums, max_gradient, kind: tl.constexpr, aligned: tl.constexpr, rows: tl.constexpr
):
    """Sums of squares of the gradient over S1 and, of a matrix, over S2: of this block's rows and columns."""
    block = blocks + tl.program_id(0).to(tl.int64) * NUM_BLOCK
    tensor, which, row, column = tl.load(block), tl.load(block + WHICH), tl.load(block + ROW), tl.load(block + COLUMN)
    lane, shape = tl.program_id(1).to(tl.int64), shapes + tensor * NUM_SHAPES
    num_outer, num_inner, s1 = tl.load(shape + NUM_OUTER), tl.load(shape + NUM_INNER), tl.load(shape + S1)
    block_rows = tl.load(shape + BLOCK_ROWS)
    g = _aligned(_pointer(table, tensor, G) + lane * tl.load(shape + SIZE), aligned)
    sums += lane * lane_sums
    outer = sums + tl.load(shape + OUTER_AT) + column // COLUMNS * num_outer + which * s1
    inner = sums + tl.load(shape + INNER_AT) + row // block_rows * num_inner + which * tl.load(shape + SLAB)
    total = tl.zeros((rows, COLUMNS), tl.float32)
    for at_row in range(row, tl.minimum(row + block_rows, s1), rows):
        at, r, _, mask = _tile(shape, which, at_row, column, MATRIX, rows, aligned)
        x = _bounded(tl.load(g + at, mask=mask, other=0.0), max_gradient)
        total += x * x
        if kind == MATRIX:
            r = at_row + tl.arange(0, rows)
            tl.store(outer + r, tl.sum(x * x, axis=1), mask=r < s1)
    c = column + tl.arange(0, COLUMNS)
    tl.store(inner + c, tl.sum(total, axis=0), mask=c < tl.load(shape + SLAB))


@triton.jit
@no_type_check
def sum_squares_outer(
    table, shapes, blocks, sums, lane_sums, max_gradient, index: tl.constexpr, rows: tl.constexpr, wide: tl.constexpr
):
    """Sums of squares of the gradient over S2 of a tensor that is no matrix, for `rows` places of the outer statistic."""
    block = blocks + tl.program_id(0).to(tl.int64) * NUM_BLOCK
    tensor, lane = tl.load(block), tl.program_id(1).to(tl.int64)
    shape = shapes + tensor * NUM_SHAPES
    s2, c, num_outer = tl.load(shape + S2), tl.load(shape + C), tl.load(shape + NUM_OUTER)
    g = _pointer(table, tensor, G) + lane * tl.load(shape + SIZE)
    o = tl.load(block + ROW) + tl.arange(0, rows)
    line = (o.to(index) // c.to(index)).to(tl.int64)
    start = line * (s2 * c) + (o - line * c)
    total = tl.zeros((rows, wide), tl.float32)
    for begin in range(0, s2, wide):
        s = begin + tl.arange(0, wide)
        mask = (o < num_outer)[:, None] & (s < s2)[None, :]
        x = tl.load(g + start[:, None] + (s * c)[None, :], mask=mask, other=0.0)
        x = _bounded(x, max_gradient)
        total += x * x
    tl.store(sums + lane * lane_sums + tl.load(shape + OUTER_AT) + o, tl.sum(total, axis=1), mask=o < num_outer)


@triton.jit
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
    old = _pointer(table, tensor, tl.where(is_outer, OUTER, INNER)) + lane * 3 * num
    new = _pointer(table, tensor, tl.where(is_outer, NEW_OUTER, NEW_INNER)) + lane * 3 * num
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


@triton.jit
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
    x = _pointer(table, tensor, tl.where(is_outer, column_outer, column_inner)) + lane * 3 * num + start
    means += lane * lane_means + tl.load(shape + GROUPS_AT) + group
    num_groups = tl.load(shape + NUM_GROUPS)
    for k in tl.static_range(3):
        total = tl.zeros((wide,), tl.float32)
        for begin in range(0, n, wide):
            s = begin + tl.arange(0, wide)
            total += tl.load(x + k * num + s * stride, mask=s < n, other=0.0)
        tl.store(means + k * num_groups, tl.sum(total) / n.to(tl.float32))


@triton.jit
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
    kind: tl.constexpr,
    writes: tl.constexpr,
    aligned: tl.constexpr,
    index: tl.constexpr,
    rows: tl.constexpr,
):
    """New momenta and second moments, of a vector all averages, and sums of squares of all but statistics."""
    block = blocks + tl.program_id(0).to(tl.int64) * NUM_BLOCK
    tensor, which, row, column = tl.load(block), tl.load(block + WHICH), tl.load(block + ROW), tl.load(block + COLUMN)
    lane, shape = tl.program_id(1).to(tl.int64), shapes + tensor * NUM_SHAPES
    size, num_outer, num_inner = tl.load(shape + SIZE), tl.load(shape + NUM_OUTER), tl.load(shape + NUM_INNER)
    size = tl.multiple_of(size, 4) if aligned else size
    p_in = _aligned(_pointer(table, tensor, P) + lane * size, aligned)
    g_in = _aligned(_pointer(table, tensor, G) + lane * size, aligned)
    m_in = _aligned(_pointer(table, tensor, M) + lane * 3 * size, aligned)
    v_in = _aligned(_pointer(table, tensor, V) + lane * size, aligned)
    m_out = _aligned(_pointer(table, tensor, NEW_M) + lane * 3 * size, aligned)
    v_out = _aligned(_pointer(table, tensor, NEW_V) + lane * size, aligned)
    outer, inner = _pointer(table, tensor, OUTER), _pointer(table, tensor, INNER)
    d_out = outer
    if kind == VECTOR:
        outer += lane * 3 * size
        d_out = _pointer(table, tensor, NEW_OUTER) + lane * 3 * size
    else:
        outer = _pointer(table, tensor, NEW_OUTER) + lane * 3 * num_outer
        inner = _pointer(table, tensor, NEW_INNER) + lane * 3 * num_inner
    means += lane * lane_means + tl.load(shape + GROUPS_AT)
    num_groups, is_outer = tl.load(shape + NUM_GROUPS), tl.load(shape + ROW_IS_OUTER) == 1
    rates += lane * 7
    rate_v = tl.load(rates + 3)
    scale_in = ()
    if kind == MATRIX:
        c = (column + tl.arange(0, COLUMNS))[None, :]
        slab = tl.load(shape + SLAB)
        scale_in = _scales(
            _statistics(inner, num_inner, which * slab + c, c < slab), not is_outer, means, num_groups, which
        )
    sums = ()
    for _ in tl.static_range(29 if kind == VECTOR else 23):
        sums = sums + (tl.zeros((rows, COLUMNS // 4), tl.float32),)
    last = tl.load(shape + S1) if kind == MATRIX else tl.cdiv(size, COLUMNS)
    for at_row in range(row, tl.minimum(row + tl.load(shape + BLOCK_ROWS), last), rows):
        at, r, _, mask = _tile(shape, which, at_row, column, kind, rows, aligned)
        g = _bounded(tl.load(g_in + at, mask=mask, other=0.0), max_gradient)
        p = tl.load(p_in + at, mask=mask, other=0.0)
        v = tl.load(v_in + at, mask=mask, other=0.0)
        square = g * g
        v += rate_v * (square - v)
        inverse = tl.where(mask, tl.rsqrt(v + eps_second), 0.0)
        if writes:
            tl.store(v_out + at, v, mask=mask)
        m, m2, mr2 = (), (), ()
        for k in tl.static_range(3):
            x = tl.load(m_in + k * size + at, mask=mask, other=0.0)
            x += tl.load(rates + k) * (g - x)
            if writes:
                tl.store(m_out + k * size + at, x, mask=mask)
            m, m2, mr2 = m + (x,), m2 + (x * x,), mr2 + (x * inverse * (x * inverse),)
        gf2, mf2, d2, dr2 = (), (), (), ()
        if kind == VECTOR:
            for k in tl.static_range(3):
                x = tl.load(outer + k * size + at, mask=mask, other=0.0)
                x += tl.load(rates + 4 + k) * (square - x)
                tl.store(d_out + k * size + at, x, mask=mask)
                gf2, mf2 = gf2 + (square / (x + 1e-9),), mf2 + (m2[k] / (x + 1e-6),)
                d2, dr2 = d2 + (x * x,), dr2 + (tl.where(mask, 1.0 / (x + 1e-8), 0.0),)
        else:
            if kind == MATRIX:
                x = _statistics(outer, num_outer, which * last + r, r < last)
                scale_out = _scales(x, is_outer, means, num_groups, which)
            else:
                at_outer, at_inner, group = _gather(shape, tl.where(mask, at, 0), index)
                x = _statistics(outer, num_outer, at_outer, mask)
                scale_out = _scales(x, is_outer, means, num_groups, group)
                x = _statistics(inner, num_inner, at_inner, mask)
                scale_in = _scales(x, not is_outer, means, num_groups, group)
            for k in tl.static_range(3):
                f = scale_out[k] * scale_in[k]
                gf2, mf2 = gf2 + (g * f * (g * f),), mf2 + (m[k] * f * (m[k] * f),)
        clip, gr = _bounded(g, 0.1), g * inverse
        moved = tl.where(m[2] != 0.0, 1.0, 0.0)
        values = (square, p * p) + m2 + (v * v,) + mr2 + (inverse * inverse,) + gf2
        values = values + mf2 + (clip * clip, gr * gr) + m + (v, moved) + d2 + dr2
        sums = _tally(sums, values, rows)
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


@triton.jit
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


@triton.jit
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
    kind: tl.constexpr,
    later: tl.constexpr,
    hidden: tl.constexpr,
    num_layers: tl.constexpr,
    num_outputs: tl.constexpr,
    extended: tl.constexpr,
    residual: tl.constexpr,
    normalize: tl.constexpr,
    counts: tl.constexpr,
    aligned: tl.constexpr,
    index: tl.constexpr,
    rows: tl.constexpr,
):
    """Steps, and the sum of their squares before they are scaled."""
    block = blocks + tl.program_id(0).to(tl.int64) * NUM_BLOCK
    tensor, which, row, column = tl.load(block), tl.load(block + WHICH), tl.load(block + ROW), tl.load(block + COLUMN)
    lane, shape = tl.program_id(1).to(tl.int64), shapes + tensor * NUM_SHAPES
    size, num_outer, num_inner = tl.load(shape + SIZE), tl.load(shape + NUM_OUTER), tl.load(shape + NUM_INNER)
    size = tl.multiple_of(size, 4) if aligned else size
    p_in = _aligned(_pointer(table, tensor, P) + lane * size, aligned)
    g_in = _aligned(_pointer(table, tensor, G) + lane * size, aligned)
    m_in = _aligned(_pointer(table, tensor, M) + lane * 3 * size, aligned)
    v_in = _aligned(_pointer(table, tensor, V) + lane * size, aligned)
    u_out = _aligned(_pointer(table, tensor, U) + lane * size, aligned)
    outer = _pointer(table, tensor, OUTER) + lane * 3 * (size if kind == VECTOR else num_outer)
    inner = _pointer(table, tensor, INNER) + lane * 3 * num_inner
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
        x = _statistics(inner, num_inner, which * slab + c, c < slab)
        scale_in = _scales(x, not is_outer, means, num_groups, which)
        z_in = _add_statistics(_splat(bias, (1, COLUMNS), hidden), w, not is_outer, x, hidden)
    total = tl.zeros((rows, COLUMNS), tl.float32)
    last = tl.load(shape + S1) if kind == MATRIX else tl.cdiv(size, COLUMNS)
    for at_row in range(row, tl.minimum(row + tl.load(shape + BLOCK_ROWS), last), rows):
        at, r, _, mask = _tile(shape, which, at_row, column, kind, rows, aligned)
        g = _bounded(tl.load(g_in + at, mask=mask, other=0.0), max_gradient)
        p = tl.load(p_in + at, mask=mask, other=0.0)
        v = tl.load(v_in + at, mask=mask, other=0.0)
        m = _statistics(m_in, size, at, mask)
        if later:
            v += tl.load(rates + 3) * (g * g - v)
            m = (
                m[0] + tl.load(rates) * (g - m[0]),
                m[1] + tl.load(rates + 1) * (g - m[1]),
                m[2] + tl.load(rates + 2) * (g - m[2]),
            )
        if kind == MATRIX:
            x = _statistics(outer, num_outer, which * last + r, r < last)
            scale_out = _scales(x, is_outer, means, num_groups, which)
            z_out = _add_statistics(_splat(bias, (rows, 1), hidden), w, is_outer, x, hidden)
            z = ()
            for h in tl.static_range(hidden):
                z = z + ((z_out[h] - tl.load(bias + h)) + z_in[h],)
        else:
            z = _splat(bias, (rows, COLUMNS), hidden)
        if kind == FLAT:
            at_outer, at_inner, group = _gather(shape, tl.where(mask, at, 0), index)
            x = _statistics(outer, num_outer, at_outer, mask)
            scale_out = _scales(x, is_outer, means, num_groups, group)
            z = _add_statistics(z, w, is_outer, x, hidden)
            x = _statistics(inner, num_inner, at_inner, mask)
            scale_in = _scales(x, not is_outer, means, num_groups, group)
            z = _add_statistics(z, w, not is_outer, x, hidden)
        if kind == VECTOR:
            x = _statistics(outer, size, at, mask)
            z = _add_statistics(z, w, True, x, hidden)
            z = _add_statistics(z, w, False, x, hidden)
        inverse = tl.rsqrt(v + eps_second)
        z = _add(_add(z, w, g, hidden), w + IN_P * hidden, p, hidden)
        z = _add(_add(z, w + IN_V * hidden, v, hidden), w + IN_R * hidden, inverse, hidden)
        if extended:
            z = _add(z, w + IN_CLIP * hidden, _bounded(g, 0.1), hidden)
            z = _add(z, w + (IN_CLIP + 1) * hidden, g * inverse, hidden)
        for k in tl.static_range(3):
            z = _add(z, w + (IN_M + k) * hidden, m[k], hidden)
            z = _add(z, w + (IN_MR + k) * hidden, m[k] * inverse, hidden)
            if kind == VECTOR:
                g_scale, m_scale = tl.rsqrt(x[k] + 1e-9), tl.rsqrt(x[k] + 1e-6)
            else:
                g_scale = scale_out[k] * scale_in[k]
                m_scale = g_scale
            z = _add(z, w + (IN_GF + k) * hidden, g * g_scale, hidden)
            z = _add(z, w + (IN_MF + k) * hidden, m[k] * m_scale, hidden)
        for i in tl.static_range(num_layers - 1):
            z = _layer(z, bias + hidden + i * (hidden + 1) * hidden, hidden, hidden)
        outputs = _layer(z, bias + hidden + (num_layers - 1) * (hidden + 1) * hidden, hidden, num_outputs)
        step = outputs[0]
        if num_outputs == 2:
            step *= tl.exp(magnitude_scale * outputs[1])
        if residual:
            step += tl.load(own) * (m[0] * inverse)
        step = tl.where(m[2] != 0.0, step, 0.0)
        if counts:
            total += step * step
        if not normalize:
            step *= tl.load(own + 1)
        tl.store(u_out + at, step, mask=mask)
    if counts:
        tl.store(parts + lane * lane_parts + tl.load(block + PART), tl.sum(total))


@triton.jit
@no_type_check
def scale_tiles(
    table, shapes, blocks, moments, norms, net, net_width, num_tensors, aligned: tl.constexpr, rows: tl.constexpr
):
    """Steps scaled to unit root mean square over the coordinates that may move, times their size."""
    block = blocks + tl.program_id(0).to(tl.int64) * NUM_BLOCK
    tensor, row, lane = tl.load(block), tl.load(block + ROW), tl.program_id(1).to(tl.int64)
    shape, item = shapes + tensor * NUM_SHAPES, lane * num_tensors + tensor
    size = tl.load(shape + SIZE)
    size = tl.multiple_of(size, 4) if aligned else size
    u = _aligned(_pointer(table, tensor, U) + lane * size, aligned)
    count = tl.load(moments + item * NUM_MOMENTS + MOVED) * size.to(tl.float32)
    count = tl.maximum(tl.floor(count + 0.5), 1.0, propagate_nan=NAN)
    by = tl.load(net + (item + 1) * net_width - 1) * tl.rsqrt(tl.load(norms + item) / count + 1e-9)
    for at_row in range(row, tl.minimum(row + tl.load(shape + BLOCK_ROWS), tl.cdiv(size, COLUMNS)), rows):
        at, _, _, mask = _tile(shape, 0, at_row, 0, FLAT, rows, aligned)
        tl.store(u + at, tl.load(u + at, mask=mask) * by, mask=mask)


@triton.jit
@no_type_check
def advance_tiles(table, shapes, blocks, rates, max_gradient, aligned: tl.constexpr, rows: tl.constexpr):
    """Momenta and second moments, in place."""
    block = blocks + tl.program_id(0).to(tl.int64) * NUM_BLOCK
    tensor, row = tl.load(block), tl.load(block + ROW)
    shape = shapes + tensor * NUM_SHAPES
    size = tl.load(shape + SIZE)
    size = tl.multiple_of(size, 4) if aligned else size
    g_in, v = _aligned(_pointer(table, tensor, G), aligned), _aligned(_pointer(table, tensor, V), aligned)
    m = _aligned(_pointer(table, tensor, M), aligned)
    for at_row in range(row, tl.minimum(row + tl.load(shape + BLOCK_ROWS), tl.cdiv(size, COLUMNS)), rows):
        at, _, _, mask = _tile(shape, 0, at_row, 0, FLAT, rows, aligned)
        g = _bounded(tl.load(g_in + at, mask=mask, other=0.0), max_gradient)
        x = tl.load(v + at, mask=mask, other=0.0)
        tl.store(v + at, x + tl.load(rates + 3) * (g * g - x), mask=mask)
        for k in tl.static_range(3):
            x = tl.load(m + k * size + at, mask=mask, other=0.0)
            tl.store(m + k * size + at, x + tl.load(rates + k) * (g - x), mask=mask)

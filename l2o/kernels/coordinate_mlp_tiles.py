"""What the Triton kernels behind coordinate_mlp_triton.py have in common: tables, tiles, statistics, the network.

A program works on tiles of rows x COLUMNS coordinates of one tensor. Of a `MATRIX` (both factored dimensions innermost)
they are rows and columns, so what the factored statistics give is reckoned once a row and once a column; a `FLAT`
tensor of any shape, and a `VECTOR` without factored statistics, is read as if it were COLUMNS wide.

Tensors are seen as (A, S1, B, S2, C), S1 and S2 factored: the outer statistic has no S2, the inner one no S1. A slab is
the B x S2 x C coordinates at one (a, s1).
"""

# ruff: noqa: RUF005  Triton knows sums of tuples, not (*x, y)
from __future__ import annotations

from typing import no_type_check  # types of kernels are Triton's business

import triton
import triton.language as tl

if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):
    raise ImportError(f"the kernels need Triton 3.3 or later, which knows loops over tuples; got {triton.__version__}")

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

kernel = triton.jit(
    do_not_specialize=["lane_sums", "lane_means", "lane_parts", "net_width", "num_tensors", "seed"]
)  # or there would be programs for multiples of 16


@triton.jit
@no_type_check
def pointer_to(table, tensor, column):
    """A pointer from the table of pointers."""
    return tl.load(table + tensor * NUM_POINTERS + column).to(tl.pointer_type(tl.float32))


@triton.jit
@no_type_check
def line_of(table, tensor, column, offset, aligned: tl.constexpr, half: tl.constexpr = False):
    """A pointer to what is read in line, four numbers at a time if `aligned`; bfloat16 if `half`."""
    dtype: tl.constexpr = tl.uint16 if half else tl.float32
    start = tl.load(table + tensor * NUM_POINTERS + column).to(tl.pointer_type(dtype))
    start = tl.multiple_of(start, 16) if aligned else start  # a hint counts in the function that makes the value,
    pointer = start + offset  # and sums of pointers may be regrouped
    return tl.multiple_of(pointer, 16) if aligned else pointer


@triton.jit
@no_type_check
def size_of(shape, aligned: tl.constexpr):
    """Coordinates of a tensor, a multiple of four if `aligned`."""
    size = tl.load(shape + SIZE)
    return tl.multiple_of(size, 4) if aligned else size


@triton.jit
@no_type_check
def load_average(pointer, mask, half: tl.constexpr):
    """Numbers kept in float32, or in bfloat16 if `half`."""
    x = tl.load(pointer, mask=mask, other=0)
    return (x.to(tl.uint32) << 16).to(tl.float32, bitcast=True) if half else x


@triton.jit
@no_type_check
def store_average(pointer, x, mask, random, half: tl.constexpr):
    """The same way; bfloat16 is rounded up with the probability of what is cut off, by 16 random bits."""
    if half:
        tl.store(pointer, ((x.to(tl.uint32, bitcast=True) + (random & 0xFFFF)) >> 16).to(tl.uint16), mask=mask)
    else:
        tl.store(pointer, x, mask=mask)


@triton.jit
@no_type_check
def random_bits(seed, at):
    """32 bits that look random, of a place and a seed, as in vector.h."""
    x = (at.to(tl.uint32) ^ (seed * 0x9E3779B1)) * 0x85EBCA6B
    x = (x ^ (x >> 15)) * 0xC2B2AE35
    x = (x ^ (x >> 13)) * 0x27D4EB2F
    return x ^ (x >> 16)


@triton.jit
@no_type_check
def bounded(x, bound):
    """Within plus and minus `bound`; nan stays nan, as in torch."""
    return tl.minimum(tl.maximum(x, -bound, propagate_nan=NAN), bound, propagate_nan=NAN)


@triton.jit
@no_type_check
def tile_of(shape, which, row, column, kind: tl.constexpr, rows: tl.constexpr, aligned: tl.constexpr):
    """Places of a tile's coordinates in their tensor, their rows, and which of them exist."""
    r = (row + tl.arange(0, rows))[:, None]
    c = (column + tl.arange(0, COLUMNS))[None, :]
    if kind == MATRIX:
        s1, slab = tl.load(shape + S1), tl.load(shape + SLAB)
        slab = tl.multiple_of(slab, 4) if aligned else slab
        return (which * s1 + r) * slab + c, r, (r < s1) & (c < slab)
    at = r * COLUMNS + c
    return at, r, at < size_of(shape, aligned)


@triton.jit
@no_type_check
def gather(shape, at, index: tl.constexpr):
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
def load_statistics(pointer, num, at, mask):
    """The three averages of a kind."""
    x = ()
    for k in tl.static_range(3):
        x = x + (tl.load(pointer + k * num + at, mask=mask, other=0.0),)
    return x


@triton.jit
@no_type_check
def scales_of(x, is_row, mean, num_groups, group):
    """What three statistics contribute to the factored scale f; a row statistic counts relative to its mean."""
    scales = ()
    for k in tl.static_range(3):
        by = tl.where(is_row, 1.0 / (tl.load(mean + k * num_groups + group) + 1e-9), 1.0)
        scales = scales + (tl.rsqrt(tl.maximum(x[k] * by, 1e-9, propagate_nan=NAN)),)
    return scales


@triton.jit
@no_type_check
def add_feature(z, w, x, hidden: tl.constexpr):
    """Each hidden unit with its weight times x."""
    out = ()
    for h in tl.static_range(hidden):
        out = out + (z[h] + tl.load(w + h) * x,)
    return out


@triton.jit
@no_type_check
def add_statistics(z, w, is_row, x, hidden: tl.constexpr):
    """Each hidden unit with what the first layer makes of three statistics."""
    plain, root = w + tl.where(is_row, IN_ROW, IN_COL) * hidden, w + tl.where(is_row, IN_RROW, IN_RCOL) * hidden
    for k in tl.static_range(3):
        z = add_feature(z, plain + k * hidden, x[k], hidden)
        z = add_feature(z, root + k * hidden, tl.rsqrt(x[k] + 1e-8), hidden)
    return z


@triton.jit
@no_type_check
def splat(w, shape: tl.constexpr, hidden: tl.constexpr):
    """A bias for each hidden unit."""
    out = ()
    for h in tl.static_range(hidden):
        out = out + (tl.zeros(shape, tl.float32) + tl.load(w + h),)
    return out


@triton.jit
@no_type_check
def layer(z, w, num_in: tl.constexpr, num_out: tl.constexpr):
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
def fold(x, rows: tl.constexpr, aligned: tl.constexpr):
    """Sums of four neighbours, if one thread holds them."""
    return tl.sum(tl.reshape(x, (rows, COLUMNS // 4, 4)), axis=2) if aligned else x


@triton.jit
@no_type_check
def tally(sums, values, rows: tl.constexpr, aligned: tl.constexpr):
    """Sums with one more tile of values."""
    out = ()
    for q in tl.static_range(len(values)):
        out = out + (sums[q] + fold(values[q], rows, aligned),)
    return out

"""How the coordinates of tensors are divided among the programs of coordinate_mlp_triton.py; depends on shapes only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from l2o.kernels import coordinate_mlp_tiles as tiles
from l2o.kernels.coordinate_mlp import geometry

VECTOR, FLAT, MATRIX = (int(kind.value) for kind in (tiles.VECTOR, tiles.FLAT, tiles.MATRIX))
COLUMNS = int(tiles.COLUMNS.value)

ROWS = 8
"""Of most tiles, and a divisor of every block's."""

OUTER_ROWS = 32
"""Places of an outer statistic in a program of `sum_squares_outer`."""

MOST_ROWS = 256
NUM_PROGRAMS = 2048
"""Blocks have as many rows as leave this many programs, enough for the largest GPU, but not more than MOST_ROWS."""

Block = tuple[int, int, int, int, int]


class Kind(NamedTuple):
    """Tensors that are treated alike, as blocks; `in_fours`: four coordinates at a time.

    blocks: of the coordinates.
    sums, outer_sums: for the first pass over factored tensors.
    """

    kind: int
    in_fours: bool
    blocks: Tensor
    sums: Tensor | None = None
    outer_sums: Tensor | None = None


class Plan(NamedTuple):
    """The division of a list of tensors.

    shapes: the table of shapes, see coordinate_mlp_tiles.py.
    rows_are_outer: whether the row statistic of a tensor is the outer one.
    kinds: all tensors, each once.
    flat: the same without regard to statistics.
    statistics: blocks of factored statistics.
    groups: means of row statistics.
    num_sums, num_means, num_parts: sizes of workspaces, for each lane.
    index: what numbers the coordinates of a FLAT tensor.
    """

    shapes: Tensor
    rows_are_outer: list[bool]
    kinds: list[Kind]
    flat: list[Kind]
    statistics: Tensor | None
    groups: Tensor | None
    num_sums: int
    num_means: int
    num_parts: int
    index: Any


@dataclass
class _Draft:
    """Blocks of a plan in the making."""

    blocks: dict[tuple[int, bool], list[Block]] = field(default_factory=dict)
    sums: dict[tuple[int, bool], list[Block]] = field(default_factory=dict)
    outer_sums: dict[tuple[int, bool], list[Block]] = field(default_factory=dict)
    flat: dict[bool, list[Block]] = field(default_factory=dict)
    statistics: list[Block] = field(default_factory=list)
    groups: list[Block] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    num_sums: int = 0
    num_means: int = 0
    num_parts: int = 0

    def add(self, shape: tuple[int, ...], block_rows: int) -> None:
        """Divide one more tensor."""
        i, (a, s1, b, s2, c, row_is_outer) = len(self.shapes), geometry(shape)
        slab, bc, start = b * s2 * c, b * c, self.num_parts
        size, num_outer, num_inner = a * s1 * slab, a * s1 * bc, a * slab
        kind = VECTOR if len(shape) < 2 else MATRIX if bc == 1 and _fits(s1, slab) else FLAT
        key = (kind, (slab if kind == MATRIX else size) % 4 == 0)
        stretches = [(0, row, 0) for row in range(0, _blocks(size, COLUMNS), block_rows)]
        squares = list(product(range(a), range(0, s1, block_rows), range(0, slab, COLUMNS)))
        self.blocks.setdefault(key, []).extend(self._counted(i, squares if kind == MATRIX else stretches))
        self.flat.setdefault(size % 4 == 0, []).extend((i, *place, 0) for place in stretches)
        outer_parts, inner_parts, num_groups = 0, 0, 0
        if kind != VECTOR:
            outer_parts, inner_parts = _blocks(slab, COLUMNS) if kind == MATRIX else 1, _blocks(s1, block_rows)
            num_groups = a * bc
            self.sums.setdefault(key, []).extend((i, *place, 0) for place in squares)
            if kind == FLAT:
                places = self.outer_sums.setdefault(key, [])
                places.extend((i, 0, at, 0, 0) for at in range(0, num_outer, OUTER_ROWS))
            sides = [(is_outer, num) for is_outer, num in ((1, num_outer), (0, num_inner))]
            ranges = [(is_outer, at, 0) for is_outer, num in sides for at in range(0, num, COLUMNS)]
            self.statistics.extend(self._counted(i, ranges))
            self.groups.extend((i, group, 0, 0, 0) for group in range(num_groups))
        outer_at, inner_at = self.num_sums, self.num_sums + outer_parts * num_outer
        sizes = (size, s1, slab, s2, c, bc, num_outer, num_inner, outer_at, outer_parts, inner_at, inner_parts)
        groups = (num_groups, self.num_means, row_is_outer)
        self.shapes.append((*sizes, *groups, block_rows, start, self.num_parts - start))
        self.num_sums = inner_at + inner_parts * num_inner
        self.num_means += 3 * num_groups

    def _counted(self, tensor: int, places: list[tuple[int, int, int]]) -> Iterator[Block]:
        """Blocks that each leave a partial sum."""
        for place in places:
            yield (tensor, *place, self.num_parts)
            self.num_parts += 1


@lru_cache(maxsize=256)
def plan_for(shapes: tuple[tuple[int, ...], ...], num_lanes: int, device: torch.device) -> Plan:
    """The division of tensors of these shapes, without their lanes."""
    total = num_lanes * sum(_size(shape) for shape in shapes)
    wanted = _blocks(total, COLUMNS * NUM_PROGRAMS)
    block_rows = min(MOST_ROWS, _blocks(wanted, ROWS) * ROWS)
    draft = _Draft()
    for shape in shapes:
        draft.add(shape, block_rows)

    def table(blocks: list[Block] | None) -> Tensor | None:
        return torch.tensor(blocks, dtype=torch.int64).to(device) if blocks else None

    kinds = []
    for key, blocks in draft.blocks.items():
        made = table(blocks)
        assert made is not None
        sums = made if key[0] == MATRIX else table(draft.sums.get(key))
        kinds.append(Kind(*key, made, sums, table(draft.outer_sums.get(key))))
    flat = [Kind(FLAT, in_fours, made) for in_fours, b in draft.flat.items() if (made := table(b)) is not None]
    return Plan(
        torch.tensor(draft.shapes, dtype=torch.int64).to(device),
        [bool(row[int(tiles.ROW_IS_OUTER.value)]) for row in draft.shapes],
        kinds,
        flat,
        table(draft.statistics),
        table(draft.groups),
        draft.num_sums,
        draft.num_means,
        draft.num_parts,
        tl.int64 if max(map(_size, shapes)) >= 2**31 else tl.int32,
    )


def _fits(s1: int, slab: int) -> bool:
    """Whether tiles waste little of a matrix."""
    return s1 >= ROWS and slab >= 0.6 * COLUMNS * _blocks(slab, COLUMNS)


def _blocks(num: int, size: int) -> int:
    return -(-num // size)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size

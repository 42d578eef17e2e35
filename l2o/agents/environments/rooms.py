"""Layouts of grid worlds: a corridor, rooms behind doors, and keys that lie in rooms which must be opened before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Generator, Tensor

from l2o.agents.environments.base import World


@dataclass(frozen=True)
class Rooms:
    """A corridor from side to side, and rooms of size x size cells above and below it, each behind a door.

    Cells are numbered row by row. In a room lies a goal. The key to its door lies in the corridor or in another room,
    so that the rooms form a random tree: rooms take turns in random order, and the key to the next one is put into the
    corridor or an earlier room, all equally likely.

    Arguments:
        num: rooms, an even number: half of them on each side.
        size: cells along a room's side, at least 2.
    """

    num: int
    size: int

    def __post_init__(self) -> None:
        if self.num < 2 or self.num % 2:
            raise ValueError(f"num_rooms must be even and at least 2, half on each side; got {self.num}.")
        if self.size < 2:
            raise ValueError(f"room_size must be at least 2 cells, for a goal and keys beside it; got {self.size}.")

    @property
    def height(self) -> int:
        """Rows: two rooms, two walls, the corridor."""
        return 2 * self.size + 3

    @property
    def width(self) -> int:
        """Columns: rooms side by side, a wall between neighbours."""
        return self.num // 2 * (self.size + 1) - 1

    @property
    def num_cells(self) -> int:
        """Of the whole grid, walls among them."""
        return self.height * self.width

    def sample(self, generator: Generator, *shape: int) -> World:
        """Layouts: cells of `door`, `key` and `goal` by room, `key_room` where a key lies (-1: corridor), `wall`."""
        goal_place = torch.randint(self.size**2, (*shape, self.num), generator=generator)
        door = self._at_wall() + torch.randint(self.size, (*shape, self.num), generator=generator)
        key_room = self._tree(generator, *shape)
        beside = torch.randint(
            1, self.size**2, (*shape, self.num), generator=generator
        )  # cells that are not the goal's
        goals_there = goal_place.gather(-1, key_room.clamp(min=0))
        in_room = self._cell(key_room.clamp(min=0), (goals_there + beside) % self.size**2)
        in_corridor = (self.size + 1) * self.width + torch.randint(self.width, (*shape, self.num), generator=generator)
        return {
            "wall": self._walls() & ~_marked(door, self.num_cells),
            "door": door,
            "key": torch.where(key_room < 0, in_corridor, in_room),
            "key_room": key_room,
            "goal": self._cell(torch.arange(self.num), goal_place),
        }

    def corridor(self, column: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        """Cells of the corridor."""
        return (self.size + 1) * self.width + column

    def _tree(self, generator: Generator, *shape: int) -> Int[Tensor, "*shape rooms"]:
        """The room that each room's key lies in, -1 for the corridor."""
        order = torch.rand(*shape, self.num, generator=generator).argsort(dim=-1)  # which room is j-th
        uniform = torch.rand(*shape, self.num, generator=generator)
        earlier = (uniform * torch.arange(1, self.num + 1)).long().clamp(max=self.num) - 1  # for the j-th: -1 to j - 1
        lies = torch.where(earlier < 0, -1, order.gather(-1, earlier.clamp(min=0)))
        return lies.gather(-1, order.argsort(dim=-1))

    def _corner(self) -> Int[Tensor, " rooms"]:
        """The first cell of each room."""
        room = torch.arange(self.num)
        column = room // 2 * (self.size + 1)
        return torch.where(room % 2 == 0, 0, (self.size + 3) * self.width) + column

    def _at_wall(self) -> Int[Tensor, " rooms"]:
        """The first cell of the wall between each room and the corridor."""
        room = torch.arange(self.num)
        row = torch.where(room % 2 == 0, self.size, self.size + 2)
        return row * self.width + room // 2 * (self.size + 1)

    def _cell(self, room: Int[Tensor, "*#batch"], place: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        """The cell at a place, counted row by row, of a room."""
        return self._corner()[room] + place // self.size * self.width + place % self.size

    def _walls(self) -> Bool[Tensor, " cells"]:
        """Where walls stand before doors are put in."""
        row = torch.arange(self.num_cells) // self.width
        column = torch.arange(self.num_cells) % self.width
        between = (column % (self.size + 1) == self.size) & (row != self.size + 1)
        return between | (row == self.size) | (row == self.size + 2)


def _marked(cells: Int[Tensor, "*batch n"], num: int) -> Bool[Tensor, "*batch num"]:
    """Which of `num` cells are among those given."""
    return (cells.unsqueeze(-1) == torch.arange(num)).any(dim=-2)

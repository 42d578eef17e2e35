"""Grid worlds with goals behind doors and keys behind other doors: a graph of skills that build on each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from l2o.agents.environments.base import Discrete, Environment, State, World, check_family
from l2o.agents.environments.rooms import Rooms

MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""Up, down, left, right, as (rows, columns)."""

NUM_SIGHTS = 5
"""Of a cell near by: wall, locked door, key, goal, the target's place."""


@dataclass(frozen=True)
class GridWorld(Environment):
    """Walk (0 up, 1 down, 2 left, 3 right) through rooms; showing the world's target skill pays 1 and ends it.

    A world has 3 skills for each of its rooms, in this order: to take the key of room i, to open its door, to reach its
    goal. A key is taken by standing on it. A door is opened by walking into it with its key; without, it is a wall.
    See `Rooms` for layouts and `prerequisites` for the graph.

    Seen are a window of cells around the agent (walls, locked doors, keys, goals, the target's place), its place, keys
    held, doors open, the target and the way to its place.

    Arguments:
        num_rooms: rooms, even.
        room_size: cells along a room's side.
        view: cells along the window's side, odd.
        max_steps: steps in an episode.
    """

    num_rooms: int = 4
    room_size: int = 2
    view: int = 5
    max_steps: int = 64

    reset_noise: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_family(self.max_steps)
        _ = self.rooms
        if self.view < 1 or self.view % 2 == 0:
            raise ValueError(f"view must be odd, so that the agent stands in the middle; got {self.view}.")

    @property
    def rooms(self) -> Rooms:
        """The plan of the layouts."""
        return Rooms(self.num_rooms, self.room_size)

    @property
    def num_skills(self) -> int:
        """Key, door and goal of each room."""
        return 3 * self.num_rooms

    @property
    def observation_size(self) -> int:
        return NUM_SIGHTS * self.view**2 + 2 * self.num_rooms + self.num_skills + 4

    @property
    def action_space(self) -> Discrete:
        return Discrete(len(MOVES))

    @property
    def return_range(self) -> tuple[float, float]:
        return 0.0, 1.0

    def sample(self, generator: Generator, *shape: int) -> World:
        target = torch.randint(self.num_skills, shape, generator=generator)
        return {**self.rooms.sample(generator, *shape), "target": target}

    def reset(self, world: World, noise: Float[Tensor, "*batch 1"]) -> State:
        column = (noise.squeeze(-1) * self.rooms.width).long()
        cell, none = self.rooms.corridor(column), torch.zeros_like(world["door"], dtype=torch.bool)
        return {"cell": cell, "held": world["key"] == cell.unsqueeze(-1), "opened": none, "reached": none}

    def step(
        self, world: World, state: State, action: Int[Tensor, "*batch"], noise: Float[Tensor, "*batch 0"]
    ) -> tuple[State, Float[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
        cell, free = self._moved(state["cell"], action)
        at_door = world["door"] == cell.unsqueeze(-1)
        shut = (at_door & ~state["held"]).any(dim=-1)
        blocked = world["wall"].gather(-1, cell.unsqueeze(-1)).squeeze(-1) | shut | ~free
        cell = torch.where(blocked, state["cell"], cell)
        here = cell.unsqueeze(-1)
        after = {
            "cell": cell,
            "held": state["held"] | (world["key"] == here),
            "opened": state["opened"] | (world["door"] == here),
            "reached": state["reached"] | (world["goal"] == here),
        }
        won = self.achieved(after).gather(-1, world["target"].unsqueeze(-1)).squeeze(-1)
        return after, won.to(noise.dtype), won

    def observe(self, world: World, state: State) -> Float[Tensor, "*batch o"]:
        width, height = self.rooms.width, self.rooms.height
        cell, place = state["cell"], self.place(world)
        row, column = cell // width, cell % width
        way_down, way_right = place // width - row, place % width - column
        numbers = torch.stack([row / height, column / width, way_down / height, way_right / width], dim=-1)
        aim = torch.arange(self.num_skills, device=cell.device) == world["target"].unsqueeze(-1)
        flags = torch.cat([self._window(world, state, place), state["held"], state["opened"], aim], dim=-1)
        return torch.cat([flags.to(numbers.dtype), numbers], dim=-1)

    def achieved(self, state: State) -> Bool[Tensor, "*batch skills"]:
        """Which skills have been shown in this episode."""
        return torch.cat([state["held"], state["opened"], state["reached"]], dim=-1)

    def place(self, world: World) -> Int[Tensor, "*batch"]:
        """The cell where the target skill is shown."""
        places = torch.cat([world["key"], world["door"], world["goal"]], dim=-1)
        return places.gather(-1, world["target"].unsqueeze(-1)).squeeze(-1)

    def prerequisites(self, world: World) -> Bool[Tensor, "*batch skills skills"]:
        """The skill graph: [i, j] says that skill j must come directly before skill i."""
        rooms = torch.eye(self.num_rooms, dtype=torch.bool, device=world["door"].device)
        index = torch.arange(self.num_rooms, device=world["door"].device)
        rooms = rooms.expand(*world["door"].shape, self.num_rooms)
        none = torch.zeros_like(rooms)
        behind = world["key_room"].unsqueeze(-1) == index  # a key lies behind another room's door
        rows = ((none, behind, none), (rooms, none, none), (none, rooms, none))
        return torch.cat([torch.cat(row, dim=-1) for row in rows], dim=-2)

    def _moved(
        self, cell: Int[Tensor, "*batch"], action: Int[Tensor, "*batch"]
    ) -> tuple[Int[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
        """The cell that a move leads to, and whether it is on the grid."""
        move = torch.tensor(MOVES, device=cell.device)[action]
        return self._shifted(cell, move[..., 0], move[..., 1])

    def _shifted(
        self, cell: Int[Tensor, "*#batch"], down: Int[Tensor, "*#batch"], right: Int[Tensor, "*#batch"]
    ) -> tuple[Int[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
        """Cells some rows and columns away, and whether they are on the grid; those that are not are cell 0."""
        width, height = self.rooms.width, self.rooms.height
        row, column = cell // width + down, cell % width + right
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        return torch.where(inside, row * width + column, 0), inside

    def _window(self, world: World, state: State, place: Int[Tensor, "*batch"]) -> Bool[Tensor, "*batch n"]:
        """What stands in the cells around the agent, kind by kind."""
        reach = self.view // 2
        offset = torch.arange(-reach, reach + 1, device=place.device)
        down, right = offset.repeat_interleave(self.view), offset.repeat(self.view)
        cells, inside = self._shifted(state["cell"].unsqueeze(-1), down, right)

        def holds(where: Int[Tensor, "*batch k"], counts: Bool[Tensor, "*batch k"]) -> Bool[Tensor, "*batch n"]:
            return ((where.unsqueeze(-2) == cells.unsqueeze(-1)) & counts.unsqueeze(-2)).any(dim=-1) & inside

        sights = [
            world["wall"].gather(-1, cells) | ~inside,
            holds(world["door"], ~state["held"]),
            holds(world["key"], ~state["held"]),
            holds(world["goal"], ~state["reached"]),
            (place.unsqueeze(-1) == cells) & inside,
        ]
        return torch.cat(sights, dim=-1)

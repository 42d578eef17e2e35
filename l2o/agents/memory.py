"""What an agent remembers of its skills: every accepted version in a library, and the way there from a new world."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from l2o.agents.environments.base import Box, Environment, World
from l2o.agents.episodes import draw, first_returns, play
from l2o.agents.kind import Kind
from l2o.agents.lineage import Lineage, LineageWarning
from l2o.agents.policy import ActorCritic
from l2o.agents.practice import Exercise
from l2o.agents.skills.library import SkillLibrary
from l2o.agents.skills.skill import Skill
from l2o.types import Params, seeded

NUM_LOOKS = 32
"""Episodes by which a world is known."""


class Recalled(NamedTuple):
    """A skill that was found: the trial that accepted it, and its weights."""

    trial: int
    params: Params


class SkillMemory:
    """The skills of an agent, one row of a library for each version of a policy that the gate accepted.

    The library is what the ledger says: rows of trials that are to be made again are forgotten, rows that are missing
    are added from the versions. One that is damaged is told, kept beside its place, and made anew.

    Arguments:
        path: of the library.
        exercises: whose policies are skills.
        lineage: of the agent.
    """

    def __init__(self, path: str | Path, exercises: Sequence[Exercise], lineage: Lineage) -> None:
        self.path, self.lineage = Path(path), lineage
        self.exercises = {one.part: one for one in exercises}
        self.library = self._opened()
        self.keep_up()

    def __len__(self) -> int:
        """Skills, all versions."""
        return len(self.library)

    def keep_up(self) -> None:
        """Bring the library to what the ledger says."""
        lines = [x for x in self.lineage.lines if x["trial"] and x["accepted"] and x["part"] in self.exercises]
        rows, trials = self._rows(), {line["trial"] for line in lines}
        self.library.forget(id for trial, id in rows.items() if trial not in trials)
        rows = {trial: id for trial, id in rows.items() if trial in trials}
        for line in lines:
            if line["trial"] not in rows:
                self._add(line, rows)

    def recall(self, kind: Kind, reach: float) -> Recalled | None:
        """The skill that is nearest to a kind of life, of those whose weights fit and which are nearer than `reach`."""
        if reach <= 0.0 or not len(self):
            return None
        fresh = kind.policy.init(seeded(0))
        found = self.library.nearest_fit(_of_kind(kind), fresh, reach)
        if found is None:
            return None
        return Recalled(int(found.skill.statistics["trial"]), {name: found.skill.weights[name] for name in fresh})

    def _add(self, line: dict[str, Any], rows: dict[int, int]) -> None:
        exercise = self.exercises[line["part"]]
        try:
            value = self.lineage.version(line["part"], line["trial"])
        except ValueError:  # told by the lineage
            return
        parent = line["parent"] or value["source"]
        place = descriptor(exercise.kind.environment, exercise.world(NUM_LOOKS))
        statistics = {name: float(line[name]) for name in ("trial", "gain", "pairs")}
        skill = Skill(place, value["params"], statistics, (rows[parent],) if parent in rows else ())
        rows[line["trial"]] = self.library.add(skill)

    def _rows(self) -> dict[int, int]:
        """Numbers in the library, by trial."""
        try:
            return {int(self.library.get(id).statistics["trial"]): id for id in self.library.ids()}
        except ValueError as error:
            self.library = self._anew(error)
            return {}

    def _opened(self) -> SkillLibrary:
        try:
            return SkillLibrary(self.path)
        except ValueError as error:
            return self._anew(error)

    def _anew(self, error: ValueError) -> SkillLibrary:
        warnings.warn(f"{error} It is made anew from the versions, and kept beside.", LineageWarning, stacklevel=4)
        for end in ("-journal", ""):
            if Path(f"{self.path}{end}").exists():
                os.replace(f"{self.path}{end}", f"{self.path}.damaged{end}")
        return SkillLibrary(self.path)


@torch.no_grad()
def descriptor(environment: Environment, world: World) -> Float[Tensor, " 7"]:
    """Worlds in numbers of order 1: what is seen and done in them, and how one fares who acts nearly at random."""
    policy, lanes = ActorCritic.of(environment, (8,)), len(next(iter(world.values())))
    params, noise = policy.init(seeded(0)), draw(environment, seeded(0), environment.max_steps + 1, lanes)
    steps = play(environment, world, lambda seen, u: policy.act(params, seen, u), noise)
    share = environment.share(first_returns(steps))
    length = first_returns(steps._replace(reward=torch.ones_like(steps.reward))) / environment.max_steps
    space = environment.action_space
    size, is_box = (space.size, 1.0) if isinstance(space, Box) else (space.num, 0.0)
    numbers = [
        math.log1p(environment.observation_size),
        math.log1p(size),
        is_box,
        0.1 * math.log(environment.max_steps),
    ]
    return torch.tensor([*numbers, float(share.mean()), float(share.std()), float(length.mean())])


@lru_cache(maxsize=256)
def _of_kind(kind: Kind) -> Float[Tensor, " 7"]:
    return descriptor(kind.environment, kind.environment.sample(seeded(0), NUM_LOOKS))

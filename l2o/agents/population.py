"""A population in the batch: members of a family learn side by side, the worst take over from the best.

Population-based training (Jaderberg et al., 2017, https://arxiv.org/abs/1711.09846) without processes or checkpoints:
an exchange is one gather along the axis of lanes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from l2o.agents.lifetime import Lifetimes, Lives, Report
from l2o.agents.losses import Hyperparameters
from l2o.agents.tuning import KNOBS, Knob
from l2o.types import Theta, tree_map, tree_stack


class Members(NamedTuple):
    """Hyperparameters and scores, by lane; lanes of a family stand side by side.

    score: running mean of episode returns.
    """

    raw: dict[str, Float[Tensor, " lanes"]]
    score: Float[Tensor, " lanes"]
    age: Int[Tensor, ""]


@dataclass(frozen=True)
class Population:
    """Exploit and explore, every few iterations, in every family at once.

    The worst quarter of a family becomes a copy of its best quarter, best to worst: weights, the rule's state and
    hyperparameters, these multiplied or divided by `factor`. Members of a family live in the same world.

    Arguments:
        lifetimes: agents.
        num_members: of a family, at least 4.
        knobs: what is explored, by name and within bounds.
        fixed: the other hyperparameters.
        every: iterations between exchanges.
        factor: see above.
        memory: of the scores.
    """

    lifetimes: Lifetimes
    num_members: int = 16
    knobs: Mapping[str, Knob] = field(default_factory=lambda: {"learning_rate": KNOBS["learning_rate"]})
    fixed: Hyperparameters = Hyperparameters()  # noqa: RUF009 (immutable)
    every: int = 3
    factor: float = 1.4
    memory: float = 0.5

    def __post_init__(self) -> None:
        if self.num_members < 4 or self.every < 1 or not self.factor >= 1.0 or not 0.0 <= self.memory < 1.0:
            raise ValueError(
                "a population needs 4 members, an iteration between exchanges, factor >= 1 and memory in [0, 1); got "
                f"num_members={self.num_members}, every={self.every}, factor={self.factor}, memory={self.memory}."
            )
        unknown = sorted(set(self.knobs) - set(Hyperparameters._fields))
        if unknown or not self.knobs:
            raise ValueError(f"knobs must be hyperparameters: {', '.join(Hyperparameters._fields)}; got {unknown}.")

    def start(
        self, num_families: int, num_iterations: int, values: Mapping[str, Tensor], generator: Generator
    ) -> tuple[Lives, Members]:
        """Families in worlds of their own; members begin alike but for their hyperparameters.

        Arguments:
            values: of each knob, one a member.
        """
        size = self.num_members
        if set(values) != set(self.knobs) or any(v.shape != (size,) for v in values.values()):
            raise ValueError(
                f"every knob needs {size} values, one a member: {sorted(self.knobs)}; got "
                f"{ {name: tuple(v.shape) for name, v in values.items()} }."
            )
        lives = self.lifetimes.start(num_families, num_iterations, generator)
        lives = tree_map(lambda x: x.repeat_interleave(size, dim=0), lives)
        raw = {name: knob.raw(values[name]).repeat(num_families) for name, knob in self.knobs.items()}
        return lives, Members(raw, torch.zeros(num_families * size), torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def advance(
        self, theta: Theta, lives: Lives, members: Members, generator: Generator
    ) -> tuple[Lives, Members, Report]:
        """One iteration of every life, and an exchange where one is due."""
        lives, report = self.lifetimes.advance(theta, lives, self.hyperparameters(members), generator)
        memory = self.memory if int(members.age) else 0.0
        score = memory * members.score + (1.0 - memory) * report.episode_return.nan_to_num(-torch.inf)
        members = Members(members.raw, score, members.age + 1)
        if int(members.age) % self.every == 0:
            lives, members = self.exchange(lives, members, generator)
        return lives, members, report

    def exchange(self, lives: Lives, members: Members, generator: Generator) -> tuple[Lives, Members]:
        """Exploit and explore once."""
        size, quarter = self.num_members, self.num_members // 4
        families = members.score.unflatten(0, (-1, size))
        rank = families.argsort(dim=-1, descending=True, stable=True)
        source = torch.arange(size).expand_as(families).scatter(-1, rank[:, -quarter:], rank[:, :quarter])
        source = (source + size * torch.arange(len(families)).unsqueeze(-1)).flatten()
        moved = source != torch.arange(len(source))
        raw = {}
        for name, knob in self.knobs.items():
            up = torch.rand(len(source), generator=generator) < 0.5
            step = torch.where(up, self.factor, 1.0 / self.factor).log()
            raw[name] = (members.raw[name][source] + torch.where(moved, step, 0.0)).clamp(*knob.bounds())
        learner = tree_map(lambda x: x[source], lives.learner)
        return lives._replace(learner=learner), Members(raw, members.score[source], members.age)

    def hyperparameters(self, members: Members) -> Hyperparameters:
        """As they are now."""
        return self.fixed._replace(**{name: knob.value(members.raw[name]) for name, knob in self.knobs.items()})

    def run(
        self,
        theta: Theta,
        num_families: int,
        num_iterations: int,
        values: Mapping[str, Tensor],
        generator: Generator,
    ) -> tuple[Report, Members]:
        """Whole lifetimes: reports stacked over iterations, and the hyperparameters they ended with."""
        lives, members = self.start(num_families, num_iterations, values, generator)
        reports = []
        for _ in range(num_iterations):
            lives, members, report = self.advance(theta, lives, members, generator)
            reports.append(report)
        return tree_stack(reports), members

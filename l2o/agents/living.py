"""How an agent lives, by what its parts are: it recalls a skill, plans, and learns with its optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.agents.advantages import Number
from l2o.agents.factors import scaled
from l2o.agents.kind import Kind
from l2o.agents.lifetime import Lifetimes
from l2o.agents.losses import Hyperparameters
from l2o.agents.memory import SkillMemory
from l2o.agents.planning.planned import planned
from l2o.agents.practice import Exercise
from l2o.agents.spec import AgentSpec, unpacked
from l2o.types import Params

NO_PLAN = {"name": "none"}
"""The part of an agent that does not plan."""


@dataclass(frozen=True)
class Living:
    """Makes lives of an agent's parts `optimizer`, `hyperparameters`, `planner` and `library`.

    Arguments:
        memory: the skills that lives may begin with.
    """

    memory: SkillMemory

    def lifetimes(self, spec: AgentSpec, kind: Kind) -> Lifetimes:
        """Lives of a kind as the agent would live them."""
        return _thinking(kind, spec).lifetimes(unpacked(spec["optimizer"]), self._recalled(spec, kind))

    def scores(
        self,
        spec: AgentSpec,
        kind: Kind,
        generator: Generator,
        num: int,
        copies: int = 1,
        factors: Mapping[str, Number] | None = None,
        episodes: int = 0,
    ) -> Float[Tensor, " num"]:
        """The share of the possible return of each of `num` whole lives.

        Arguments:
            copies, episodes: see `Kind.scores`.
            factors: of hyperparameters, in place of the agent's; tensors have one for each life.
        """
        rule, first = unpacked(spec["optimizer"]), self._recalled(spec, kind)
        factors = spec["hyperparameters"] if factors is None else factors
        hyper = scaled(kind.hyperparameters, factors, recalled=first is not None)
        thinking = _thinking(kind, spec)
        return thinking.scores(rule, generator, num, copies, None, hyper, first, episodes)

    def scores_of(
        self, spec: AgentSpec, kinds: Sequence[Kind], generator: Generator, num: int
    ) -> Float[Tensor, " num"]:
        """Of lives of several kinds, one after the other."""
        sizes = [len(range(i, num, len(kinds))) for i in range(len(kinds))]
        found = [self.scores(spec, kind, generator, size) for kind, size in zip(kinds, sizes, strict=True) if size]
        return torch.cat(found)

    def _recalled(self, spec: AgentSpec, kind: Kind) -> Params | None:
        """The weights that lives begin with."""
        found = self.memory.recall(kind, spec["library"]["reach"])
        return None if found is None else found.params


def from_nothing(spec: AgentSpec) -> AgentSpec:
    """The agent as it learns by itself: it does not plan, and recalls no skill."""
    spec = spec.replaced("planner", NO_PLAN, spec.versions["planner"])
    return spec.replaced("library", {"reach": 0.0}, spec.versions["library"])


def hyperparameters_of(spec: AgentSpec, kind: Kind, recalled: bool = False) -> Hyperparameters:
    """A kind's, as the agent has them for what begins from nothing, or with a skill."""
    return scaled(kind.hyperparameters, spec["hyperparameters"], recalled)


def policy_scores(exercise: Exercise, spec: AgentSpec, generator: Generator, num: int) -> Float[Tensor, " num"]:
    """Of episodes of an exercise, acted by the agent's policy and planner."""
    thinking = replace(exercise, kind=_thinking(exercise.kind, spec))
    return thinking.scores(spec[exercise.part]["params"], generator, num)


def _thinking(kind: Kind, spec: AgentSpec) -> Kind:
    """The kind, with the agent's planner."""
    return replace(kind, environment=planned(kind.environment, spec["planner"]))

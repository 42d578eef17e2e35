"""Adaptation hyperparameters from populations that exchange them while they learn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator

from l2o.agents.factors import knobs_around, moved
from l2o.agents.improve import Proposer
from l2o.agents.kind import Kind, one_of
from l2o.agents.living import Living, from_nothing, hyperparameters_of
from l2o.agents.population import Population
from l2o.agents.spec import AgentSpec, Proposal
from l2o.types import Theta


class Exchange(Proposer):
    """Lets families live a life with the agent's hyperparameters and others around them, and proposes what won.

    They live from nothing (see `from_nothing`). In a family the worst take over weights and hyperparameters from the
    best (see `Population`); proposed is the geometric mean, over families, of what the best members ended with.

    Arguments:
        living: how the agent lives.
        kinds: to live on; each proposal takes one of them.
        num_families, num_members: of a proposal.
        spread: a member's factors begin at exp of a normal number times this; one member's at 1.
    """

    part = "hyperparameters"

    def __init__(
        self, living: Living, kinds: Sequence[Kind], num_families: int = 6, num_members: int = 8, spread: float = 0.5
    ) -> None:
        if not kinds or num_families < 1 or not spread >= 0:
            raise ValueError(
                f"exchange needs a kind of life, a family and spread >= 0; got {len(kinds)}, {num_families}, {spread}."
            )
        self.living, self.kinds, self.spread = living, tuple(kinds), spread
        self.num_families, self.num_members = num_families, num_members

    def propose(self, spec: AgentSpec, generator: Generator) -> Proposal:
        kind = one_of(self.kinds, generator)
        present, lifetimes = hyperparameters_of(spec, kind), self.living.lifetimes(from_nothing(spec), kind)
        knobs = knobs_around(present)
        population = Population(lifetimes, self.num_members, knobs, present)
        values = {}
        for name, knob in knobs.items():
            away = self.spread * torch.randn(self.num_members, generator=generator)
            away[0] = 0.0
            values[name] = knob.value(knob.raw(torch.tensor(float(getattr(present, name)))) + away)
        theta: Theta = dict(lifetimes.rule.named_parameters())
        _, members = population.run(theta, self.num_families, kind.num_iterations, values, generator)
        best = members.score.unflatten(0, (self.num_families, -1)).argmax(dim=-1)
        best = best + self.num_members * torch.arange(self.num_families)
        raw = {name: x[best] for name, x in members.raw.items()}
        return Proposal(self.part, moved(spec[self.part], knobs, present, raw), "Exchange")

"""Adaptation hyperparameters by trial: a population of changes lives in one batch, the best is proposed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator

from l2o.agents.factors import SCALES, scaled
from l2o.agents.improve import Proposer
from l2o.agents.kind import Kind
from l2o.agents.living import Living, from_nothing
from l2o.agents.spec import AgentSpec, Proposal


class Trials(Proposer):
    """Changes each factor of the agent's hyperparameters at random, and proposes the change that lived best.

    All changes, and none, live in one batch on the kinds that the agent learns from, in the same worlds with the same
    chances, from nothing (see `from_nothing`); the gate then judges the best of them on others.

    Arguments:
        living: how the agent lives.
        kinds: to live on.
        num_changes: tried at once.
        num_lives: of each, on each kind.
        spread: each factor changes by exp of a normal number times this.
    """

    part = "hyperparameters"

    def __init__(
        self, living: Living, kinds: Sequence[Kind], num_changes: int = 15, num_lives: int = 4, spread: float = 0.4
    ) -> None:
        if not kinds or num_changes < 1 or num_lives < 1 or not spread > 0:
            raise ValueError(
                "tuning needs a kind of life, a change, a life and a positive spread; got "
                f"{len(kinds)}, {num_changes}, {num_lives}, {spread}."
            )
        self.living, self.kinds, self.spread = living, tuple(kinds), spread
        self.num_changes, self.num_lives = num_changes, num_lives

    def propose(self, spec: AgentSpec, generator: Generator) -> Proposal:
        names, copies = tuple(SCALES), self.num_changes + 1
        changes = torch.exp(self.spread * torch.randn(self.num_changes, len(names), generator=generator))
        changes = torch.cat([torch.ones(1, len(names)), changes])
        tried = changes * torch.tensor([spec[self.part][name] for name in names])
        factors = {name: x.repeat_interleave(self.num_lives) for name, x in zip(names, tried.unbind(1), strict=True)}
        means, alone = torch.zeros(copies), from_nothing(spec)
        for kind in self.kinds:
            hyper = scaled(kind.hyperparameters, factors)
            scores = self.living.scores(alone, kind, generator, copies * self.num_lives, copies, hyper)
            means += scores.view(copies, self.num_lives).mean(dim=1)
        best = int(means[1:].argmax()) + 1
        value = {name: float(x) for name, x in zip(names, tried[best], strict=True)}
        return Proposal(self.part, value, f"Trials, best of {self.num_changes}")

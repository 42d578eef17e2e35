"""Adaptation hyperparameters by trial: a population of changes lives in one batch, the best is proposed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator

from l2o.agents.improve import Proposer
from l2o.agents.lifetime_es import Kind
from l2o.agents.practice import tuned
from l2o.agents.spec import AgentSpec, Proposal, unpacked

TUNED = ("learning_rate", "clip", "entropy", "value", "max_grad_norm")
"""Hyperparameters that have a factor in the agent's part."""


class Trials(Proposer):
    """Changes each factor of the agent's hyperparameters at random, and proposes the change that lived best.

    All changes, and none, live in one batch on the kinds that the agent learns from, in the same worlds with the same
    chances; the gate then judges the best of them on others.

    Arguments:
        kinds: to live on; each proposal takes one of them.
        num_changes: tried at once.
        num_lives: of each.
        spread: each factor changes by exp of a normal number times this.
    """

    part = "hyperparameters"

    def __init__(self, kinds: Sequence[Kind], num_changes: int = 7, num_lives: int = 8, spread: float = 0.4) -> None:
        if not kinds or num_changes < 1 or num_lives < 1 or not spread > 0:
            raise ValueError(
                "tuning needs a kind of life, a change, a life and a positive spread; got "
                f"{len(kinds)}, {num_changes}, {num_lives}, {spread}."
            )
        self.kinds, self.num_changes, self.num_lives, self.spread = tuple(kinds), num_changes, num_lives, spread

    def propose(self, spec: AgentSpec, generator: Generator) -> Proposal:
        kind = self.kinds[int(torch.randint(len(self.kinds), (), generator=generator))]
        changes = torch.exp(self.spread * torch.randn(self.num_changes, len(TUNED), generator=generator))
        changes = torch.cat([torch.ones(1, len(TUNED)), changes])
        present = torch.tensor([spec[self.part].get(name, 1.0) for name in TUNED])
        tried = changes * present
        factors = {name: x.repeat_interleave(self.num_lives) for name, x in zip(TUNED, tried.unbind(1), strict=True)}
        copies = self.num_changes + 1
        scores = kind.scores(
            unpacked(spec["optimizer"]),
            generator,
            copies * self.num_lives,
            copies,
            hyperparameters=tuned(kind.hyperparameters, factors),  # type: ignore[arg-type]
        )
        best = int(scores.view(copies, self.num_lives).mean(dim=1)[1:].argmax()) + 1
        value = {name: float(x) for name, x in zip(TUNED, tried[best], strict=True)}
        return Proposal(self.part, value, f"{type(self).__name__}, best of {self.num_changes}")

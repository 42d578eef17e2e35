"""Adaptation hyperparameters by trial: a population of changes lives in one batch, what the better ones share stays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.agents.factors import FACTORS, RECALLED
from l2o.agents.gate import Verdict
from l2o.agents.improve import Proposer
from l2o.agents.kind import Kind
from l2o.agents.living import NO_PLAN, Living, from_nothing
from l2o.agents.spec import AgentSpec, Proposal


class Trials(Proposer):
    """Changes each factor of the agent's hyperparameters at random, and goes where the changes lead that lived better.

    An evolution strategy: changes come in pairs of opposite ones, and the logarithms of the better half, weighted by
    rank, add up to the step (Hansen, 2016, https://arxiv.org/abs/1604.00772, section 2.2). All of them live in one
    batch on the kinds that the agent learns from, in the same worlds with the same chances, without a planner: from
    nothing (see `from_nothing`), and where the agent recalls skills, with these too. The gate judges on others. Where
    it found a step neither better nor worse, the next one goes on from there, while the optimizer stays the same. A
    proposal takes `2 num_pairs num_steps num_lives` lives of each kind, or twice as many.

    Arguments:
        living: how the agent lives.
        kinds: to live on.
        num_pairs: of changes, tried at once.
        num_lives: of each change, on each kind.
        num_steps: until a proposal.
        spread: each factor changes by exp of a normal number times this.
    """

    part = "hyperparameters"

    def __init__(
        self,
        living: Living,
        kinds: Sequence[Kind],
        num_pairs: int = 8,
        num_lives: int = 4,
        num_steps: int = 3,
        spread: float = 0.4,
    ) -> None:
        if not kinds or min(num_pairs, num_lives, num_steps) < 1 or not spread > 0:
            raise ValueError(
                "tuning needs a kind of life, a pair of changes, a life, a step and a positive spread; got "
                f"{len(kinds)}, {num_pairs}, {num_lives}, {num_steps}, {spread}."
            )
        self.living, self.kinds, self.spread = living, tuple(kinds), spread
        self.num_pairs, self.num_lives, self.num_steps = num_pairs, num_lives, num_steps
        self.begun: dict[str, float] = {}
        self.optimizer = 0
        self.reached: dict[str, float] = {}

    def propose(self, spec: AgentSpec, generator: Generator) -> Proposal:
        present: dict[str, float] = spec[self.part]
        optimizer = spec.versions["optimizer"]
        if (present, optimizer) != (self.begun, self.optimizer):  # changed from elsewhere, or for another optimizer
            self.begun = self.reached = dict(present)
            self.optimizer = optimizer
        value = self.reached
        for _ in range(self.num_steps):
            value = self._step(spec, value, generator)
        return Proposal(self.part, value, f"Trials, {2 * self.num_pairs * self.num_steps} changes")

    def hear(self, proposal: Proposal, verdict: Verdict) -> None:
        self.reached = proposal.value if verdict.reason == "undecided" else self.begun

    def state_dict(self) -> dict[str, Any]:
        return {"begun": self.begun, "optimizer": self.optimizer, "reached": self.reached}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.begun, self.optimizer, self.reached = state["begun"], state["optimizer"], state["reached"]

    def _step(self, spec: AgentSpec, value: dict[str, float], generator: Generator) -> dict[str, float]:
        noise = torch.randn(self.num_pairs, len(FACTORS), generator=generator)
        if len(self._ways(spec)) == 1:  # nothing says how to go on from a skill
            noise[:, FACTORS.index(RECALLED)] = 0.0
        noise = torch.cat([noise, -noise])
        ranks = self._scores(spec, value, noise, generator).argsort(descending=True).argsort()
        weights = (math.log(self.num_pairs + 0.5) - torch.log1p(ranks.float())).clamp(min=0.0)
        step = self.spread * (weights / weights.sum()) @ noise
        return {name: value[name] * math.exp(x) for name, x in zip(FACTORS, step.tolist(), strict=True)}

    def _scores(
        self, spec: AgentSpec, value: dict[str, float], noise: Float[Tensor, "changes factors"], generator: Generator
    ) -> Float[Tensor, " changes"]:
        """How well each change lived, summed over kinds."""
        tried = torch.tensor([value[name] for name in FACTORS]) * torch.exp(self.spread * noise)
        factors = {name: x.repeat_interleave(self.num_lives) for name, x in zip(FACTORS, tried.unbind(1), strict=True)}
        copies, total = len(tried), torch.zeros(len(tried))
        for one, kind in product(self._ways(spec), self.kinds):
            scores = self.living.scores(one, kind, generator, copies * self.num_lives, copies, factors)
            total += scores.nan_to_num(0.0).view(copies, self.num_lives).mean(dim=1)
        return total

    def _ways(self, spec: AgentSpec) -> list[AgentSpec]:
        """How lives begin: from nothing, and with a recalled skill, which steps that are too long would spoil."""
        recalls = spec.replaced("planner", NO_PLAN, spec.versions["planner"])
        return [from_nothing(spec), *([recalls] if spec["library"]["reach"] > 0.0 else [])]

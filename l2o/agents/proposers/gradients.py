"""Adaptation hyperparameters from meta-gradients of an agent's own updates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator

from l2o.agents.factors import knobs_around, moved
from l2o.agents.improve import Proposer
from l2o.agents.kind import Kind, one_of
from l2o.agents.living import Living, from_nothing, hyperparameters_of
from l2o.agents.spec import AgentSpec, Proposal
from l2o.agents.tuning import KNOBS, SelfTuning, Tuner
from l2o.types import Theta


class Gradients(Proposer):
    """Lets agents live a life in which their hyperparameters follow meta-gradients, and proposes where these led.

    They live from nothing (see `from_nothing`). Proposed is the geometric mean over lives. What has no meta-gradient
    stays (see `SelfTuning`).

    Arguments:
        living: how the agent lives.
        kinds: to live on; each proposal takes one of them.
        num_lives: of a proposal.
        rate: of a meta-gradient of the usual size, in logarithms.
    """

    part = "hyperparameters"

    def __init__(self, living: Living, kinds: Sequence[Kind], num_lives: int = 16, rate: float = 0.15) -> None:
        if not kinds or num_lives < 1 or not rate > 0:
            raise ValueError(
                f"tuning needs a kind of life, a life and a positive rate; got {len(kinds)}, {num_lives}, {rate}."
            )
        self.living, self.kinds, self.num_lives, self.rate = living, tuple(kinds), num_lives, rate

    def propose(self, spec: AgentSpec, generator: Generator) -> Proposal:
        kind = one_of(self.kinds, generator)
        present, lifetimes = hyperparameters_of(spec, kind), self.living.lifetimes(from_nothing(spec), kind)
        tuner = Tuner(knobs_around(present, names=KNOBS), self.rate)
        tuning = SelfTuning(lifetimes, tuner, present)
        theta: Theta = dict(lifetimes.rule.named_parameters())
        lives = lifetimes.start(self.num_lives, kind.num_iterations, generator)
        state = tuner.init({name: torch.full((self.num_lives,), float(getattr(present, name))) for name in tuner.knobs})
        for _ in range(max(1, kind.num_iterations // 2)):  # two iterations each
            lives, state, _ = tuning.advance(theta, lives, state, generator)
        return Proposal(self.part, moved(spec[self.part], tuner.knobs, present, state.raw), "Gradients")

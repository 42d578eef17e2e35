"""The one door through which an agent changes: `Proposal(part, new) -> Gate -> new version | rollback`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Generator, Tensor

from l2o.agents.gate import Gate, Known, Verdict
from l2o.agents.lineage import Lineage
from l2o.agents.spec import AgentSpec, Proposal, is_finite
from l2o.types import draw_seed, seeded

Assess: TypeAlias = Callable[[AgentSpec, Generator, int], Tensor]
"""(agent, generator, num) -> scores in [0, 1] on `num` held-out tasks: equal generators, equal tasks and chances."""


class Proposer(ABC):
    """Thinks of changes to one part of an agent: self-tuning, recursion, learning itself.

    Attributes:
        part: which one.
    """

    part: str

    @abstractmethod
    def propose(self, spec: AgentSpec, generator: Generator) -> Proposal:
        """A change, for the gate to judge."""

    def hear(self, proposal: Proposal, verdict: Verdict) -> None:  # noqa: B027 - most do not mind
        """What became of it."""

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs, as a tree of tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - most have none
        """Continue where `state_dict` was taken."""


class Door:
    """Judges proposals, records them, and returns the agent that follows.

    Each part has a gate of its own, with its share of `alpha`: all together accept a change that is none with
    probability `gate.alpha` at most, in a run of any length.

    Trials of a round are on the same tasks until one is accepted, so that the agent that is there has to be scored on
    them once. Nothing is proposed in knowledge of how another proposal fared on these tasks: a proposer hears of its
    own alone, and may propose once between calls of `next_round`. But on which tasks a trial is, the trials before it
    decide: the n-th of a round has up to n sets of tasks that it could be accepted on, and so an n-th of its part's
    share.

    Arguments:
        gate: of the whole agent.
        lineage: where trials are recorded.
        assess: the score, for parts that `assess_part` does not name.
        assess_part: scores of single parts, such as policies that are judged in the skill they are of.
    """

    def __init__(
        self, gate: Gate, lineage: Lineage, assess: Assess, assess_part: dict[str, Assess] | None = None
    ) -> None:
        self.gate, self.lineage, self.assess = gate, lineage, assess
        self.assess_part = assess_part or {}
        self.next_round()

    def next_round(self) -> None:
        """Take other tasks from now on; trials are counted anew."""
        self.place = 0
        self.seed: int | None = None
        self.versions: dict[str, int] = {}
        self.known: dict[Assess, Known] = {}

    def consider(self, spec: AgentSpec, proposal: Proposal, generator: Generator) -> tuple[AgentSpec, Verdict]:
        """The agent after a proposal: with the new version, or the very same one."""
        seed = draw_seed(generator)  # one number a trial, however many tasks it takes
        self.place += 1
        if self.seed is None or self.versions != spec.versions:
            self.seed, self.versions, self.known = seed, spec.versions, {}
        verdict = self._faults(spec, proposal) or self._judge(spec, proposal, seeded(self.seed))
        return self.lineage.record(spec, proposal, verdict)

    def ask(self, spec: AgentSpec, proposer: Proposer, generator: Generator) -> tuple[AgentSpec, Verdict]:
        """Ask a proposer, consider what it says, and tell it the verdict. One that raises has lost its trial."""
        seed = draw_seed(generator)
        try:
            proposal = proposer.propose(spec, seeded(seed))
        except Exception as error:  # whatever a proposer raises
            verdict = self._rejected(spec, f"proposer crashed: {type(error).__name__}: {error}")
            return self.lineage.record(spec, Proposal(proposer.part, None, type(proposer).__name__), verdict)
        spec, verdict = self.consider(spec, proposal, generator)
        proposer.hear(proposal, verdict)
        return spec, verdict

    def _judge(self, spec: AgentSpec, proposal: Proposal, generator: Generator) -> Verdict:
        new = spec.replaced(proposal.part, proposal.value, -1)
        assess = self.assess_part.get(proposal.part, self.assess)
        with torch.random.fork_rng(devices=[]):
            return self._gate(spec).judge(
                lambda g, num: assess(spec, g, num),
                lambda g, num: assess(new, g, num),
                self.lineage.trials_of(proposal.part) + 1,
                generator,
                self.known.setdefault(assess, {}),
            )

    def _gate(self, spec: AgentSpec) -> Gate:
        """That of one part, with its share of alpha."""
        return replace(self.gate, alpha=self.gate.alpha / (len(spec) * max(1, self.place)))

    def _faults(self, spec: AgentSpec, proposal: Proposal) -> Verdict | None:
        """What is wrong with a proposal before anything is tried."""
        if proposal.part not in spec.parts:
            return self._rejected(spec, "no such part")
        return None if is_finite(proposal.value) else self._rejected(spec, "not finite")

    def _rejected(self, spec: AgentSpec, reason: str) -> Verdict:
        return Verdict(False, reason, 1.0, self._gate(spec).needed(1), 0.0, 0)

"""Several proposers for one part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Generator

from l2o.agents.gate import Verdict
from l2o.agents.improve import Proposer
from l2o.agents.spec import AgentSpec, Proposal


class InTurn(Proposer):
    """Asks one proposer after the other; each hears what became of what it proposed.

    Arguments:
        proposers: all for the same part.
    """

    def __init__(self, proposers: Sequence[Proposer]) -> None:
        if len({one.part for one in proposers}) != 1:
            raise ValueError(
                "proposers that take turns must be for one part, whose gate they share; got "
                f"{[one.part for one in proposers]}."
            )
        self.proposers, self.part, self.turn = tuple(proposers), proposers[0].part, -1

    def propose(self, spec: AgentSpec, generator: Generator) -> Proposal:
        self.turn = (self.turn + 1) % len(self.proposers)
        return self.proposers[self.turn].propose(spec, generator)

    def hear(self, proposal: Proposal, verdict: Verdict) -> None:
        self.proposers[self.turn].hear(proposal, verdict)

    def state_dict(self) -> dict[str, Any]:
        return {"turn": self.turn, "each": [one.state_dict() for one in self.proposers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.turn = state["turn"]
        for one, saved in zip(self.proposers, state["each"], strict=True):
            one.load_state_dict(saved)

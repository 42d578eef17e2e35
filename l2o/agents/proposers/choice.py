"""Changes of what has no gradient: a few values for a part, tried by a bandit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator

from l2o.agents.gate import Verdict
from l2o.agents.hyper_bandit import HyperBandit, Pulls
from l2o.agents.improve import Proposer
from l2o.agents.spec import AgentSpec, Proposal


class Choice(Proposer):
    """Proposes one of several values, never the present one: by Thompson sampling over the gains that the gate found.

    Gains are counted from what the agent began with: those of a later trial are added to what was gained before it.
    When the part was changed by another proposer they are forgotten, for they were not counted from there.

    Arguments:
        part: which part of the agent they are for.
        options: the values, plain ones.
    """

    def __init__(self, part: str, options: Sequence[dict[str, Any]]) -> None:
        self.part, self.options = part, list(options)
        self.bandit = HyperBandit(len(self.options))
        self.pulls = self.bandit.init(1)
        self.level = 0.0
        self.version: int | None = None
        self.accepted: int | None = None

    def propose(self, spec: AgentSpec, generator: Generator) -> Proposal:
        same, version = [_same(one, spec[self.part]) for one in self.options], spec.versions[self.part]
        known = self.version in (None, version) if self.accepted is None else same[self.accepted]
        if not known:
            self.pulls, self.level = self.bandit.init(1), 0.0
        self.version, self.accepted = version, None
        noise = torch.rand(1, len(self.options), generator=generator)
        allowed = torch.tensor([[not one for one in same]])
        option = int(self.bandit.choose(self.pulls, noise, allowed))
        return Proposal(self.part, self.options[option], "Choice")

    def hear(self, proposal: Proposal, verdict: Verdict) -> None:
        option = next(i for i, one in enumerate(self.options) if _same(one, proposal.value))
        paid = self.level + verdict.gain if verdict.pairs else float("nan")
        self.pulls = self.bandit.updated(self.pulls, torch.tensor([option]), torch.tensor([paid]))
        if verdict.accepted:
            self.level, self.accepted = self.level + verdict.gain, option

    def state_dict(self) -> dict[str, Any]:
        known = {"level": self.level, "version": self.version, "accepted": self.accepted}
        return {"pulls": tuple(self.pulls), **known}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.pulls, self.level = Pulls(*state["pulls"]), state["level"]
        self.version, self.accepted = state["version"], state["accepted"]


def _same(one: Any, other: Any) -> bool:
    """Of plain values; what else stands there is none of them."""
    return isinstance(other, dict) and one == other

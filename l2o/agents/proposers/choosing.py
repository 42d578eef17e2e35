"""Which skill comes next, as a part of an agent: choosers by hand and learned ones, judged on simulated learners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.agents.improve import Proposer
from l2o.agents.skills.chooser_training import ChooserTraining
from l2o.agents.skills.choosers import Chooser, LearningProgress, Uniform
from l2o.agents.skills.curriculum import lifetimes
from l2o.agents.skills.learned_chooser import LearnedChooser
from l2o.agents.skills.skill_graph import SkillGraph
from l2o.agents.spec import AgentSpec, Proposal, packed, unpacked_module
from l2o.types import made

CHOOSERS: dict[str, Callable[..., Chooser]] = {"uniform": Uniform, "progress": LearningProgress}

OPTIONS: list[dict[str, Any]] = [
    {"name": "uniform"},
    *({"name": "progress", "sharpness": sharpness, "floor": 0.01} for sharpness in (2.0, 1.0, 4.0)),
]
"""Choosers by hand that an agent may take; of a name, the first is what it begins with."""


def chooser_of(value: dict[str, Any] | Tensor) -> Chooser:
    """The chooser of a part: a name with arguments, or a learned one, `packed`.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, Tensor):
        learned = unpacked_module(value, "the agent's chooser")
        if not isinstance(learned, LearnedChooser):
            raise ValueError(f"a learned chooser must be a LearnedChooser; got a {type(learned).__name__}.")
        return learned
    return CHOOSERS[value["name"]](**{name: x for name, x in value.items() if name != "name"})


@torch.no_grad()
def chooser_scores(value: Any, graph: SkillGraph, generator: Generator, num: int) -> Float[Tensor, " num"]:
    """Mean competence over whole lives of practice, in [0, 1], on random skill graphs."""
    return lifetimes(graph, chooser_of(value), num, generator).area


class ChooserLearning(Proposer):
    """Meta-learns a chooser on simulated learners, some rounds further for each proposal.

    Arguments:
        graph: the learners.
        seed: of the first weights.
        num_rounds: of a proposal (see `ChooserTraining`, taught).
        num_lanes: learners of a round.
    """

    part = "chooser"

    def __init__(self, graph: SkillGraph, seed: int, num_rounds: int = 12, num_lanes: int = 128) -> None:
        self.training = ChooserTraining(graph, num_rounds, 0, num_lanes)
        self.chooser = made(lambda: LearnedChooser(hidden_size=16), seed)

    def propose(self, spec: AgentSpec, generator: Generator) -> Proposal:
        with torch.enable_grad():
            self.training.run(self.chooser, generator)
        return Proposal(self.part, packed(self.chooser), "ChooserLearning")

    def state_dict(self) -> dict[str, Any]:
        return {name: x.clone() for name, x in self.chooser.state_dict().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.chooser.load_state_dict(state)

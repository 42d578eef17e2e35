"""The settings of an agent that improves itself, and what it begins with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from l2o.agents.factors import FACTORS
from l2o.agents.gate import Gate
from l2o.agents.living import NO_PLAN
from l2o.agents.proposers.choosing import OPTIONS
from l2o.agents.spec import packed
from l2o.load import load
from l2o.rules.base import UpdateRule
from l2o.training.config import MAPPING, train_only
from l2o.training.pools import PoolConfig
from l2o.types import made

PARTS = {
    "hyperparameters": "tune",
    "optimizer": "recurse",
    "chooser": "choose",
    "planner": "plan",
    "library": "recall",
}
"""Parts beside policies, and the setting that says how often a change of each is proposed."""


@dataclass(frozen=True)
class AgentConfig(PoolConfig):
    """An agent that learns skills, and improves how it learns, plans and chooses what to practise.

    Each part that can change has a number of rounds between proposals for it; 0 freezes it as it is at first.

    Arguments:
        lives: a named suite of kinds of lives: it practises and learns from the first part, the gate judges on the
            second, reports are about the third.
        rounds: of practice and improvement.
        iterations: of PPO in a practice.
        rule: the optimizer that the agent begins with: a name, or a saved file.
        rule_args: constructor arguments for a rule given by name, as YAML.
        learned: the rule that is to take its place.
        learned_args: its constructor arguments.
        only: parameters of it that are trained (a regular expression).
        tune: rounds between proposals of hyperparameters: by trial, by populations and by meta-gradients, in turn.
        recurse: of an optimizer, that the present one has trained.
        choose: of a chooser of skills: meta-learned, and by hand, in turn.
        plan: of a planner, for environments that can be planned in.
        recall: of how near a skill of the library must be for new lives to begin with it.
        chooser: that the agent begins with: uniform, or progress (see `LearningProgress`).
        outer_steps: outer steps of an island's round.
        outer_lr: of Adam as outer optimizer.
        self_lr: multiplier of the optimizer's own steps, where it is its own outer optimizer.
        num_pairs, num_lives, std: see `LifetimeES`.
        alpha, batch, max_pairs: see `Gate`.
        report_every: rounds between looks at the lives that are reported, by which nothing is chosen; 0: never.
        report_lives: of each kind in such a look.
        seed: of everything.
        threads: CPU threads; 0 leaves torch's choice.
    """

    lives: str = "ppo"
    rounds: int = 20
    iterations: int = 10
    rule: str = "adam"
    rule_args: Annotated[dict[str, Any], MAPPING] = field(default_factory=lambda: {"lr": 3e-3})
    learned: str = "learnedmuon"
    learned_args: Annotated[dict[str, Any], MAPPING] = field(default_factory=lambda: {"step_scale": 0.06})
    only: str = r"steering\.(write\..*|exponents)"
    tune: int = 1
    recurse: int = 2
    choose: int = 4
    plan: int = 4
    recall: int = 4
    chooser: Literal["uniform", "progress"] = "progress"
    outer_steps: int = 4
    outer_lr: float = 0.04
    self_lr: float = 1.0
    num_pairs: int = 8
    num_lives: int = 2
    std: float = 0.1
    alpha: float = 0.05
    batch: int = 64
    max_pairs: int = 768
    report_every: int = 0
    report_lives: int = 32
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1 or self.iterations < 1:
            raise ValueError(f"an agent needs a round and an iteration; got {self.rounds} and {self.iterations}.")
        counts = {name: getattr(self, name) for name in (*PARTS.values(), "report_every")}
        if min(counts.values()) < 0:
            told = ", ".join(f"{name}={count}" for name, count in counts.items())
            raise ValueError(f"rounds between proposals are counted from 1, 0 for never; got {told}.")

    def gate(self) -> Gate:
        """The gate of all parts."""
        return Gate(self.alpha, self.batch, self.max_pairs)

    def first_rule(self) -> UpdateRule:
        """The optimizer that the agent begins with, and falls back to."""
        return made(lambda: load(self.rule, **self.rule_args), self.seed)

    def learned_rule(self) -> UpdateRule:
        """The optimizer in training, untrained."""
        rule: UpdateRule = made(lambda: load(self.learned, **self.learned_args), self.seed + 1)
        train_only(rule, self.only)
        return rule

    def first(self) -> dict[str, Any]:
        """The agent's parts before its first round, but for its policies."""
        return {
            "optimizer": packed(self.first_rule()),
            "hyperparameters": dict.fromkeys(FACTORS, 1.0),
            "chooser": next(one for one in OPTIONS if one["name"] == self.chooser),
            "planner": NO_PLAN,
            "library": {"reach": 0.0},
        }

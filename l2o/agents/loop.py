"""The whole loop: choose a skill, act and learn, assess, propose, gate, store; resumable at any instant."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from torch import Generator, Tensor

from l2o.agents.gate import Gate
from l2o.agents.improve import Door, Proposer
from l2o.agents.lifetime_es import LifetimeES
from l2o.agents.lineage import Lineage
from l2o.agents.practice import POLICY, Practice, Skill, lives_scores, skills_of
from l2o.agents.proposers.recursion import Driver, Island, Recursion
from l2o.agents.proposers.trials import TUNED, Trials
from l2o.agents.skills.choosers import LearningProgress
from l2o.agents.skills.record import Practice as Practised
from l2o.agents.skills.record import Record
from l2o.agents.spec import AgentSpec, Proposal, packed
from l2o.agents.suites import LifeSuite, lives
from l2o.distributed.pool import WorkerPool
from l2o.files import write_atomically
from l2o.load import load
from l2o.rules.base import UpdateRule
from l2o.training.config import MAPPING, to_plain, train_only
from l2o.training.metrics import Dashboard
from l2o.training.pools import PoolConfig
from l2o.training.run import RunDirectory
from l2o.types import Theta, seeded

TRIALS = 10
"""Trials that a practice counts for in what is known of a skill; the share of the possible return succeeded."""


@dataclass(frozen=True)
class AgentConfig(PoolConfig):
    """An agent that learns skills, and improves how it learns.

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
        tune: rounds between proposals of hyperparameters; 0 leaves them frozen.
        recurse: rounds between proposals of an optimizer; 0 leaves it frozen.
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
    outer_steps: int = 4
    outer_lr: float = 0.04
    self_lr: float = 1.0
    num_pairs: int = 8
    num_lives: int = 2
    std: float = 0.1
    alpha: float = 0.05
    batch: int = 64
    max_pairs: int = 256
    report_every: int = 0
    report_lives: int = 32
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1 or self.iterations < 1:
            raise ValueError(f"an agent needs a round and an iteration; got {self.rounds} and {self.iterations}.")
        if min(self.tune, self.recurse, self.report_every) < 0:
            raise ValueError(
                "tune, recurse and report_every count rounds, 0 for never; got "
                f"{self.tune}, {self.recurse}, {self.report_every}."
            )

    def gate(self) -> Gate:
        """The gate of all parts."""
        return Gate(self.alpha, self.batch, self.max_pairs)

    def first_rule(self) -> UpdateRule:
        """The optimizer that the agent begins with, and falls back to."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            rule: UpdateRule = load(self.rule, **self.rule_args)
        return rule

    def learned_rule(self) -> UpdateRule:
        """The optimizer in training, untrained."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + 1)
            rule: UpdateRule = load(self.learned, **self.learned_args)
        train_only(rule, self.only)
        return rule


class Round(NamedTuple):
    """What a round did, for the eye: plain values.

    skill: practised.
    share: mean part of the possible return meanwhile.
    trials: [part, reason, gain] of each proposal.
    """

    number: int
    skill: str
    share: float
    trials: list[list[Any]]
    report: dict[str, float]


class Agent:
    """An agent at work in a folder; made again on the same folder, it goes on from the last whole round.

    Everything in a round is a function of what stood in the folder before it, so a round that was cut off is made again
    to the same result.

        config.yaml      the configuration
        checkpoints/     the last ones
        ledger.jsonl     every trial (see `Lineage`)
        versions/        every accepted version
        rounds.jsonl     what every round did
        tensorboard/     the dashboard

    Arguments:
        config: settings.
        folder: where it lives.
        suite: kinds of lives in place of those that `config.lives` names.
    """

    def __init__(self, config: AgentConfig, folder: str | Path, suite: LifeSuite | None = None) -> None:
        self.config, self.suite = config, lives(config.lives) if suite is None else suite
        self.directory = RunDirectory(folder)
        plain = to_plain(config)
        self.directory.write_config(plain)
        self.skills = skills_of(self.suite.train, config.seed)
        self.lineage = Lineage(folder)
        self.proposers = self._proposers()
        self.working: dict[str, Any] = {skill.part: skill.first() for skill in self.skills}
        self.record = Record.empty(1, len(self.skills))
        self.rounds: list[str] = []
        state = self.directory.newest()
        if state is not None:
            self._load(state)
        else:  # a first round that was cut off is made again
            self.lineage.rewind([line for line in self.lineage.lines if line["trial"] == 0])
        self.lineage.begin(self.first())
        self.spec = self.lineage.spec()
        held_out = tuple(self.suite.validation.values())
        self.door = Door(
            config.gate(),
            self.lineage,
            lambda spec, generator, num: lives_scores(spec, held_out, generator, num),
            {skill.part: _policy_scores(skill) for skill in self.skills},
        )

    @property
    def number(self) -> int:
        """Whole rounds so far."""
        return len(self.rounds)

    def run(self, show: Callable[[Agent, Round], None] | None = None) -> None:
        """Rounds up to the configured number."""
        with closing(Dashboard(self.directory.dashboard, self.number)) as dashboard:
            try:
                while self.number < self.config.rounds:
                    done = self.round()
                    dashboard.scalars(_scalars(done, self.spec), done.number)
                    if show is not None:
                        show(self, done)
            finally:
                self.close()

    def round(self) -> Round:
        """One round: choose, practise, propose, gate, store."""
        number = self.number + 1
        generator = seeded(self.config.seed + 1_000_003 * number)
        index = self.choose(generator)
        skill = self.skills[index]
        share, trials = self._practise(skill, generator)
        steps = self.config.iterations * skill.kind.algorithm.num_samples
        practised = Practised(
            torch.tensor([float(TRIALS)]), torch.tensor([TRIALS * share]), torch.tensor([float(steps)])
        )
        spent = torch.tensor([number / self.config.rounds])
        self.record = self.record.updated(torch.tensor([index]), practised, spent)
        for proposer in self._due(number):
            self.spec, verdict = self.door.ask(self.spec, proposer, generator)
            trials.append([proposer.part, verdict.reason, round(verdict.gain, 6)])
        done = Round(number, skill.name, round(share, 6), trials, self.report(number))
        self.rounds.append(json.dumps(done._asdict()))
        self._store(number)
        return done

    def choose(self, generator: Generator) -> int:
        """Which skill to practise next, as the agent's chooser says."""
        chooser = LearningProgress(**self.spec["chooser"])
        return int(chooser.choose(self.record, torch.rand(1, len(self.skills), generator=generator)))

    def report(self, number: int) -> dict[str, float]:
        """The part of the possible return that lives of the reported kinds reach; empty where it is not the time."""
        every = self.config.report_every
        if not every or (number % every and number != self.config.rounds):
            return {}
        return reached(self.spec, self.suite, self.config.report_lives)

    def close(self) -> None:
        """End what proposers have started."""
        for proposer in self.proposers.values():
            if isinstance(proposer, Recursion):
                proposer.close()

    def _practise(self, skill: Skill, generator: Generator) -> tuple[float, list[list[Any]]]:
        """Go on with the policy in work, and propose it; one that is worse is given up, weights and optimizer state."""
        practice = Practice(skill, self.config.iterations, self.config.iterations * self.config.rounds)
        value, share = practice(self.spec, self.working[skill.part], generator)
        proposal = Proposal(skill.part, value, "practice")
        self.spec, verdict = self.door.consider(self.spec, proposal, generator)
        kept = verdict.accepted or verdict.reason == "undecided"
        self.working[skill.part] = value if kept else self.spec[skill.part]
        return share, [[skill.part, verdict.reason, round(verdict.gain, 6)]]

    def _due(self, number: int) -> list[Proposer]:
        """Who is asked in a round."""
        every = {"hyperparameters": self.config.tune, "optimizer": self.config.recurse}
        return [one for name, one in self.proposers.items() if number % every[name] == 0]

    def _proposers(self) -> dict[str, Proposer]:
        found: dict[str, Proposer] = {}
        if self.config.tune:
            found["hyperparameters"] = Trials(tuple(self.suite.train.values()))
        if self.config.recurse:
            found["optimizer"] = Recursion(self.config.learned_rule(), self._islands)
        return found

    def _islands(self, driver: Driver, theta: Theta) -> WorkerPool:
        """Islands whose steps one driver takes; their estimator trains a rule of its own."""
        c = self.config
        kinds = tuple(self.suite.train.values())
        estimator = LifetimeES(c.learned_rule(), kinds, c.num_pairs, c.num_lives, c.std)
        lr = c.outer_lr if driver == "adam" else c.self_lr
        island = Island(estimator, driver, lr, spread=2.0, num_steps=c.outer_steps)
        return c.make_pool(island, theta, c.seed + (7919 if driver == "adam" else 104_729), c.threads)

    def first(self) -> AgentSpec:
        """The agent before its first round."""
        parts = {skill.part: skill.first() for skill in self.skills}
        factors = {name: 1.0 for name in TUNED}
        rule, chooser = packed(self.config.first_rule()), {"sharpness": 2.0, "floor": 0.01}
        return AgentSpec.of(optimizer=rule, hyperparameters=factors, chooser=chooser, **parts)

    def _store(self, number: int) -> None:
        lines = [json.dumps(line) for line in self.lineage.lines]
        tree = {
            "rounds": self.rounds,
            "ledger": lines,
            "working": self.working,
            "record": tuple(self.record),
            "proposers": {name: proposer.state_dict() for name, proposer in self.proposers.items()},
            "hyperparameters": to_plain(self.config),
        }
        write_atomically(self.directory.path / "rounds.jsonl", "".join(x + "\n" for x in self.rounds).encode())
        self.directory.save_checkpoint(tree, number)

    def _load(self, state: Mapping[str, Any]) -> None:
        self.lineage.rewind([json.loads(line) for line in state["ledger"]])
        self.rounds, self.working = list(state["rounds"]), state["working"]
        self.record = Record(*state["record"])
        for name, one in state["proposers"].items():
            self.proposers[name].load_state_dict(one)


def reached(spec: AgentSpec, suite: LifeSuite, num: int, seed: int = 2000) -> dict[str, float]:
    """The part of the possible return that lives reach with an agent's optimizer and hyperparameters, by test kind."""
    return {
        name: round(float(lives_scores(spec, (kind,), seeded(seed), num).mean()), 6)
        for name, kind in suite.test.items()
    }


def _policy_scores(skill: Skill) -> Callable[[AgentSpec, Generator, int], Tensor]:
    return lambda spec, generator, num: skill.scores(spec[skill.part]["params"], generator, num)


def _scalars(done: Round, spec: AgentSpec) -> dict[str, float]:
    found = {f"practice/{done.skill}": done.share} | {f"lives/{name}": x for name, x in done.report.items()}
    found |= {f"gain/{part.removeprefix(POLICY)}": gain for part, _, gain in done.trials}
    found |= {f"accepted/{part}": float(reason == "better") for part, reason, _ in done.trials}
    return found | {f"version/{name}": float(version) for name, version in spec.versions.items()}

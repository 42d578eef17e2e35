"""The whole loop: choose a skill, act and learn, assess, propose, gate, store; resumable at any instant."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator

from l2o.agents.assembled import door_of, proposers_of
from l2o.agents.config import PARTS, AgentConfig
from l2o.agents.improve import Proposer
from l2o.agents.lineage import Lineage
from l2o.agents.living import Living, hyperparameters_of
from l2o.agents.memory import SkillMemory
from l2o.agents.practice import POLICY, Exercise, able, begun, exercises_of, practise
from l2o.agents.proposers.choosing import chooser_of
from l2o.agents.proposers.recursion import Recursion
from l2o.agents.skills.record import Practice, Record
from l2o.agents.spec import AgentSpec, Proposal
from l2o.agents.suites import LifeSuite, lives
from l2o.files import write_atomically
from l2o.training.config import to_plain
from l2o.training.metrics import Dashboard
from l2o.training.run import RunDirectory
from l2o.types import seeded

TRIALS = 10
"""Trials that a practice counts for in what is known of a skill; the share of the possible return succeeded."""

REPORTED = 2
"""Whole episodes at each look at a life that is reported."""


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
        skills.db        the library: every accepted version of a policy (see `SkillMemory`)
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
        self.directory.write_config(to_plain(config))
        self.exercises = exercises_of(self.suite.train, config.seed)
        self.working: dict[str, Any] = {one.part: one.first() for one in self.exercises}
        self.record = Record.empty(1, len(self.exercises))
        self.rounds: list[str] = []
        self.lineage = Lineage(folder)
        state = self.directory.newest()
        self._rewind(state)
        self.memory = SkillMemory(self.directory.path / "skills.db", self.exercises, self.lineage)
        self.living = Living(self.memory)
        self.proposers = proposers_of(config, self.suite, self.living, config.seed)
        for name, one in {} if state is None else state["proposers"].items():
            self.proposers[name].load_state_dict(one)
        self.spec = self.lineage.spec()
        self.door = door_of(config, self.suite, self.lineage, self.living, self.exercises)

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
        self.door.next_round()
        index = self.choose(generator)
        exercise = self.exercises[index]
        share, trials = self._practise(exercise, generator)
        steps = self.config.iterations * exercise.kind.algorithm.num_samples
        practice = Practice(torch.tensor([float(TRIALS)]), torch.tensor([TRIALS * share]), torch.tensor([float(steps)]))
        spent = torch.tensor([number / self.config.rounds])
        self.record = self.record.updated(torch.tensor([index]), practice, spent)
        for proposer in self._due(number):
            self.spec, verdict = self.door.ask(self.spec, proposer, generator)
            trials.append([proposer.part, verdict.reason, round(verdict.gain, 6)])
        done = Round(number, exercise.name, round(share, 6), trials, self.report(number))
        self.rounds.append(json.dumps(done._asdict()))
        self._store(number)
        return done

    @torch.no_grad()
    def choose(self, generator: Generator) -> int:
        """Which skill to practise next, as the agent's chooser says."""
        noise = torch.rand(1, len(self.exercises), generator=generator)
        return int(chooser_of(self.spec["chooser"]).choose(self.record, noise))

    def report(self, number: int) -> dict[str, float]:
        """The part of the possible return that lives of the reported kinds reach; empty where it is not the time."""
        every = self.config.report_every
        if not every or (number % every and number != self.config.rounds):
            return {}
        return self.reached(self.spec, self.config.report_lives)

    def reached(self, spec: AgentSpec, num: int, seed: int = 2000) -> dict[str, float]:
        """The part of the possible return that lives of the reported kinds reach, by an agent of these parts."""
        found = {
            name: self.living.scores(spec, kind, seeded(seed), num, episodes=REPORTED)
            for name, kind in self.suite.test.items()
        }
        return {name: round(float(scores.mean()), 6) for name, scores in found.items()}

    def close(self) -> None:
        """End what proposers have started."""
        for proposer in self.proposers.values():
            if isinstance(proposer, Recursion):
                proposer.close()

    def first(self) -> AgentSpec:
        """The agent before its first round."""
        return AgentSpec.of(**self.config.first(), **{one.part: one.first() for one in self.exercises})

    def _practise(self, exercise: Exercise, generator: Generator) -> tuple[float, list[list[Any]]]:
        """Go on with the policy in work, and propose it; one that is worse is given up, weights and optimizer state."""
        c, kind, part = self.config, exercise.kind, exercise.part
        begin = self._begin(exercise)
        lifetimes, hyper = self.living.lifetimes(self.spec, kind), hyperparameters_of(self.spec, kind, able(begin))
        version, total = self.spec.versions["optimizer"], c.iterations * c.rounds
        value, share = practise(exercise, lifetimes, hyper, begin, version, c.iterations, total, generator)
        self.spec, verdict = self.door.consider(self.spec, Proposal(part, value, "practice"), generator)
        self.memory.keep_up()
        kept = verdict.accepted or verdict.reason == "undecided"
        self.working[part] = value if kept else self.spec[part]
        return share, [[part, verdict.reason, round(verdict.gain, 6)]]

    def _begin(self, exercise: Exercise) -> dict[str, Any]:
        """What a practice goes on from; a skill of which nothing was kept yet begins with the nearest one."""
        value: dict[str, Any] = self.working[exercise.part]
        if value["opt"] is not None:
            return value
        found = self.memory.recall(exercise.kind, self.spec["library"]["reach"])
        return value if found is None else begun(found.params, found.trial)

    def _due(self, number: int) -> list[Proposer]:
        """Who is asked in a round; nobody for the library as long as nothing is in it."""
        due = [part for part in self.proposers if number % getattr(self.config, PARTS[part]) == 0]
        return [self.proposers[part] for part in due if part != "library" or len(self.memory)]

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

    def _rewind(self, state: Mapping[str, Any] | None) -> None:
        """Go back to a checkpoint, or to before the first round: what came after it is made again."""
        if state is None:
            self.lineage.rewind([line for line in self.lineage.lines if line["trial"] == 0])
        else:
            self.lineage.rewind([json.loads(line) for line in state["ledger"]])
            self.rounds, self.working = list(state["rounds"]), state["working"]
            self.record = Record(*state["record"])
        self.lineage.begin(self.first())


def _scalars(done: Round, spec: AgentSpec) -> dict[str, float]:
    found = {f"practice/{done.skill}": done.share} | {f"lives/{name}": x for name, x in done.report.items()}
    found |= {f"gain/{part.removeprefix(POLICY)}": gain for part, _, gain in done.trials}
    found |= {f"accepted/{part}": float(reason == "better") for part, reason, _ in done.trials}
    return found | {f"version/{name}": float(version) for name, version in spec.versions.items()}

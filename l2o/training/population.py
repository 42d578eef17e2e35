"""Several rules meta-trained at once: the worst take over from the best and try other outer hyperparameters.

Population-based training (Jaderberg et al., 2017, https://arxiv.org/abs/1711.09846), as Metz et al. (2021,
https://arxiv.org/abs/2101.07367) use it for learned optimizers. Members train side by side for a round, each with
workers of its own, and are scored on held-out tasks. Then every member of the worst quarter becomes a copy of one of
the best quarter (weights and the outer optimizer's averages; its workers' half-trained problems stay), with rates
multiplied or divided by 1.25.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from l2o.files import write_atomically
from l2o.load import save
from l2o.training.config import MetaTrainConfig, to_plain
from l2o.training.meta_train_command import Evaluator
from l2o.training.meta_trainer import MetaTrainer
from l2o.training.metrics import Dashboard
from l2o.training.run import RunDirectory
from l2o.types import seeded

EXPLORED = ("lr", "max_grad_norm")
FACTOR = 1.25


@dataclass(frozen=True)
class PopulationConfig(MetaTrainConfig):
    """Meta-train several rules at once, by population-based training. All that is said of one is said of each.

    Arguments:
        size: members; each has `workers` workers.
        round: outer steps between exchanges.
        spread: members begin with the outer learning rate multiplied by a number drawn log-uniformly from 1 / spread to
            spread.
    """

    size: int = 4
    round: int = 50
    spread: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 2 or self.round < 1 or not self.spread >= 1.0:
            raise ValueError(
                "a population needs 2 members or more, rounds of 1 step or more and a spread of 1 or more; got "
                f"size={self.size}, round={self.round}, spread={self.spread}."
            )

    def member(self, index: int) -> MetaTrainConfig:
        """The configuration that a member begins with."""
        generator = seeded(self.seed + 7919 * (index + 1))
        factor = self.spread ** (2.0 * float(torch.rand((), generator=generator)) - 1.0)
        c = self.resolved()
        assert c.lr is not None
        own = {name: getattr(c, name) for name in MetaTrainConfig.__dataclass_fields__}
        seed = self.seed + 10007 * index  # apart from all seeds of another member's workers
        return MetaTrainConfig(**{**own, "seed": seed, "lr": c.lr * factor, "schedule": "constant"})


class Member:
    """A trainer with its hyperparameters and its last score (lower is better)."""

    def __init__(self, trainer: MetaTrainer) -> None:
        self.trainer = trainer
        self.score = math.inf

    @property
    def hyperparameters(self) -> dict[str, float | None]:
        """What is explored, as it is now."""
        return {"lr": float(self.trainer.optimizer.param_groups[0]["lr"]), "max_grad_norm": self.trainer.max_grad_norm}

    def set_hyperparameters(self, values: dict[str, float | None]) -> None:
        """Go on with other ones."""
        assert self.trainer.schedule is not None and values["lr"] is not None
        for group in self.trainer.optimizer.param_groups:
            group["lr"] = group["initial_lr"] = values["lr"]
        self.trainer.schedule.base_lrs = [values["lr"]] * len(self.trainer.optimizer.param_groups)
        self.trainer.max_grad_norm = values["max_grad_norm"]

    def take_over(self, other: Member, generator: Generator) -> None:
        """Become a copy of another, and explore from there."""
        self.trainer.module.load_state_dict(other.trainer.module.state_dict())
        # a deep copy: torch takes the tensors as they are, and averages of two would be one
        self.trainer.optimizer.load_state_dict(copy.deepcopy(other.trainer.optimizer.state_dict()))
        up = torch.rand(len(EXPLORED), generator=generator) < 0.5
        self.set_hyperparameters(
            {
                name: None if value is None else value * (FACTOR if up[i] else 1.0 / FACTOR)
                for i, (name, value) in enumerate(other.hyperparameters.items())
            }
        )

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed population needs."""
        return {"trainer": self.trainer.state_dict(), "score": self.score, **self.hyperparameters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.trainer.load_state_dict(state["trainer"])
        self.set_hyperparameters({name: state[name] for name in EXPLORED})
        self.score = state["score"]


def exchange(members: list[Member], generator: Generator) -> list[tuple[int, int]]:
    """Let the worst quarter take over from the best; returns who did, from whom."""
    quarter = max(1, len(members) // 4)
    ranked = sorted(
        range(len(members)), key=lambda i: members[i].score if math.isfinite(members[i].score) else math.inf
    )
    moves = []
    for loser in ranked[-quarter:]:
        winner = ranked[int(torch.randint(quarter, (), generator=generator))]
        if winner != loser:
            members[loser].take_over(members[winner], generator)
            moves.append((loser, winner))
    return moves


def train_population(
    config: PopulationConfig, folder: Path, show: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Train as configured, from the folder's newest checkpoint if it has one.

    `best.safetensors` is the best rule of any round, `rule.safetensors` the best of the last, `members/i.safetensors`
    all of the last; `population.jsonl` tells every round.

    Returns:
        the best score, and the member and round that reached it.
    """
    config = config.resolved()
    directory, suite = RunDirectory(folder), config.suite()
    state, plain = directory.newest(), to_plain(config)
    directory.write_config(plain)
    evaluator = Evaluator(suite)
    with ExitStack() as stack:
        members = []
        for i in range(config.size):
            members.append(Member(config.member(i).build(suite)))
            stack.enter_context(closing(members[-1].trainer.pool))
        best: dict[str, Any] = {"score": math.inf, "member": 0, "round": 0}
        history: list[dict[str, Any]] = []
        if state is not None:
            for member, one in zip(members, state["members"], strict=True):
                member.load_state_dict(one)
            best, history = state["best"], [json.loads(line) for line in state["history"]]
        executor = stack.enter_context(ThreadPoolExecutor(config.size if config.on_ray else 1))
        dashboard = stack.enter_context(closing(Dashboard(directory.dashboard, members[0].trainer.num_steps)))
        while (step := members[0].trainer.num_steps) < config.steps:
            steps = min(config.round, config.steps - step)
            losses = list(executor.map(lambda member, steps=steps: _advance(member.trainer, steps), members))
            number = len(history) + 1
            for i, member in enumerate(members):
                member.score = evaluator.scores(member.trainer.module)[0]["score"]
                if member.score < best["score"]:
                    best = {"score": member.score, "member": i, "round": number}
                    save(member.trainer.module, directory.best)
            told = [{**member.hyperparameters, "score": member.score} for member in members]
            generator = seeded(config.seed + 104729 * number)
            last = step + steps == config.steps
            moves = [] if last else exchange(members, generator)
            history.append({"round": number, "step": step + steps, "members": told, "exchanges": moves})
            for i, (one, loss) in enumerate(zip(told, losses, strict=True)):
                values = {name: value for name, value in {**one, "meta_loss": loss}.items() if value is not None}
                dashboard.scalars({f"member_{i}/{name}": value for name, value in values.items()}, step + steps)
            _write(directory, members, history, best, plain)
            if show is not None:
                scores = ", ".join(f"{member.score:.4g}" for member in members)
                show(f"round {number}, step {step + steps} of {config.steps}: scores {scores}; {len(moves)} exchanged")
    return best


def _advance(trainer: MetaTrainer, steps: int) -> float:
    """The meta-loss of the last of so many steps."""
    return [trainer.step() for _ in range(steps)][-1]["meta_loss"]


def _write(
    directory: RunDirectory, members: list[Member], history: list[dict[str, Any]], best: dict[str, Any], plain: Any
) -> None:
    """Everything that stands in the folder after a round."""
    lines = [json.dumps(line) for line in history]
    for i, member in enumerate(members):
        save(member.trainer.module, directory.path / "members" / f"{i}.safetensors")
    leader = min(members, key=lambda member: member.score)
    save(leader.trainer.module, directory.weights)
    states = [member.state_dict() for member in members]
    tree = {"members": states, "history": lines, "best": best, "hyperparameters": plain}
    directory.save_checkpoint(tree, members[0].trainer.num_steps)
    write_atomically(directory.path / "population.jsonl", "".join(line + "\n" for line in lines).encode())

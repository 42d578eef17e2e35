"""Does a trained rule train learners better than tuned Adam does? (every learner is a task)

    python -m benchmarks.outer_rule --record

An LSTM rule is meta-trained on two learners (MAML and prototypical networks) of small Gaussian-class episodes, in 8
dimensions. Then it trains every learner on episodes in 16 dimensions, with wider networks, which it never saw; so does
Adam at the best of its rates, chosen for each learner on these very runs. Learners of images have Omniglot (found in
the folder that L2O_DATA names, or downloaded) and a quarter of the channels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from torch import Generator

from benchmarks.record import commit, keep
from l2o.distributed import LocalPool
from l2o.estimators import Backprop, MetaLoss, Problems, Truncation
from l2o.files import write_atomically
from l2o.learners import MAML, MLP, Adaptation, EpisodicTask, PrototypicalNetwork, ReptileTask
from l2o.load import load, save
from l2o.rules import SGD, Adam, LSTMRule
from l2o.tasks.base import Task, TaskFamily, choose
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.training import report
from l2o.training.baselines import RATES
from l2o.training.evaluate import Contestant, compare
from l2o.training.learn import LearnConfig
from l2o.training.meta_trainer import MetaTrainer, theta_of
from l2o.training.run import RunDirectory, meta_train

LEARNERS = (
    "maml",
    "anil",
    "boil",
    "meta-sgd",
    "meta-curvature",
    "imaml",
    "cavia",
    "prototypical",
    "matching",
    "siamese",
    "r2d2",
    "metaoptnet",
    "reptile",
    "maml++",
    "relation",
    "meta-lstm",
)
"""The last takes 11 GB and an hour."""
OF_IMAGES = ("maml++", "relation")
OWN: dict[str, dict[str, Any]] = {
    "imaml": {"inner_lr": 0.1, "inner_steps": 16},
    "meta-lstm": {"inner_lr": 0.011, "inner_steps": 5, "order": "first"},
}
"""What these were measured with, as in their papers, where Gaussian classes have other settings now."""


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        learners: which to train.
        outer_steps: of the rule's meta-training.
        num_steps: steps of a learner's training.
        num_seeds: runs of each learner.
        num_episodes: episodes of a step.
        threads: CPU threads.
        out: folder of the run and rows.
        record: keep the rows in benchmarks/results.
    """

    learners: tuple[str, ...] = LEARNERS
    outer_steps: int = 1000
    num_steps: int = 100
    num_seeds: int = 5
    num_episodes: int = 4
    threads: int = 1
    out: Path = Path("runs/outer_rule")
    record: bool = False


def small_maml(width: int) -> Adaptation:
    """MAML of a small perceptron, inner rate learned."""
    return Adaptation(MAML(MLP([8, width, 5])), SGD(0.1), 1)


def small_prototypical(width: int) -> Adaptation:
    """Prototypes by a small perceptron."""
    return Adaptation(PrototypicalNetwork(MLP([8, width, width]), 5))


MAKERS = tuple(partial(make, width) for make in (small_maml, small_prototypical) for width in (12, 20))
"""What the rule is meta-trained on; made once, so that tasks of one kind run side by side."""


@dataclass(frozen=True)
class SmallLearners(TaskFamily):
    """Small learners on episodes of random spread."""

    makers: tuple[partial[Adaptation], ...] = MAKERS

    def fix(self, generator: Generator) -> SmallLearners:
        return SmallLearners((choose(self.makers, generator),))

    def sample(self, generator: Generator) -> Task:
        family = GaussianClasses(dim=8, spread=0.5, query=5)
        return EpisodicTask(self.fix(generator).makers[0], family, 4)


def held_out(learner: str, num_episodes: int) -> Task:
    """A learner with the settings of its recipe, but for five classes."""
    kind = ReptileTask if learner == "reptile" else EpisodicTask
    return kind(partial(_recipe, learner), _config(learner).suite().train, num_episodes)


def _recipe(learner: str) -> Adaptation:
    return _config(learner).fresh(_config(learner).suite())


def _config(learner: str) -> LearnConfig:
    images = {"data": "omniglot", "width": 16} if learner in OF_IMAGES else {"data": "gaussian-classes"}
    shot = 10 if learner == "reptile" else 1
    return LearnConfig(learner=learner, **images, train_way=5, train_shot=shot, train_query=5, **OWN.get(learner, {}))


def meta_trained(config: Config) -> LSTMRule:
    """The rule, from the run's folder if it was trained before."""
    directory = RunDirectory(config.out)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rule = LSTMRule(inputs="rnnprop")
    truncation, loss = Truncation(window=20, horizon=config.num_steps), MetaLoss(log=True)
    problems = Problems(rule, SmallLearners(), 4, truncation=truncation, meta_loss=loss, order="first")
    trainer = MetaTrainer(
        rule, LocalPool(Backprop(problems), theta_of(rule)), torch.optim.Adam(rule.parameters(), lr=3e-3)
    )
    meta_train(trainer, config.outer_steps, directory, save=save, checkpoint_every=50, show_progress=False)
    return load(config.out)


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a learner and method; what an earlier run has finished is taken from its folder."""
    rule = meta_trained(config)
    contestants = {"LSTM": Contestant(rule), "Adam": Contestant(Adam(1.0), RATES)}
    for learner in config.learners:
        done = config.out / "rows" / f"{learner}.jsonl"
        if not done.exists():
            tasks = {learner: held_out(learner, config.num_episodes)}
            results = compare(contestants, tasks, config.num_steps, config.num_seeds)
            Console().print(report.table(results, baseline="Adam"))
            lines = [json.dumps(row | {"computed_at": commit()}) for row in report.rows(results, ("Adam",))]
            write_atomically(done, "\n".join(lines).encode())
        yield from map(json.loads, done.read_text().splitlines())


def main(config: Config) -> None:
    """Meta-train, compare, write."""
    torch.set_num_threads(config.threads)
    rows = list(run(config))
    keep("outer_rule", config, rows, by=("task",))


if __name__ == "__main__":
    main(tyro.cli(Config))

"""How near do learners come to the best possible accuracy, where it is known: on Gaussian classes?

    python -m benchmarks.gaussian_classes --record

Class means are N(0, I) in 16 dimensions, examples N(mean, I), 5-way 1-shot. Every learner that classifies is trained on
the same number of episodes, with its own settings beside (see `l2o learn`), and judged on the same 4,000 others;
so are the exact Bayes classifier, which none can beat, and the nearest class mean. A run that was stopped goes on from
its last checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.record import commit, keep
from l2o.learners import Adaptation, PrototypicalNetwork
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.training.evaluate import half_interval
from l2o.training.judge import CHUNK, judge
from l2o.training.learn import LearnConfig
from l2o.training.learn_command import learn
from l2o.training.recipes import RECIPES
from l2o.types import seeded, tree_map

OTHERS = ("relation", "convcnp")
"""Learners of other data: images, numbers on a line."""

TEST_SEED = 10**6
"""Of the test episodes of runs with seed 0, see `learn_command.report`."""


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        learners: which; all that classify vectors if empty.
        seeds: of weights and episodes; the limits are those on the test episodes of seed 0.
        optimizer: of the weights: a class of torch.optim, or an update rule by name.
        train_episodes: that each learner sees, in as many outer steps as it takes.
        episodes: of the test.
        threads: CPU threads.
        out: folder of the runs and rows.
        record: keep the rows in benchmarks/results.
    """

    learners: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    optimizer: str = "Adam"
    train_episodes: int = 320_000
    episodes: int = 4000
    threads: int = 1
    out: Path = Path("runs/gaussian_classes")
    record: bool = False


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row for each limit, then one a learner and seed."""
    yield from limits(config)
    for name in config.learners or [name for name in RECIPES if name not in OTHERS]:
        for seed in config.seeds:
            yield trained(config, name, seed)


def limits(config: Config) -> Iterator[dict[str, Any]]:
    """Of the exact Bayes classifier and the nearest class mean, on the episodes that the learners are judged on."""
    family, generator, right = GaussianClasses(), seeded(TEST_SEED), []
    for start in range(0, config.episodes, CHUNK):
        drawn = family.sample_many(generator, min(CHUNK, config.episodes - start))
        for i in range(len(drawn.support.x)):
            episode = tree_map(lambda x, i=i: x[i], drawn)
            right.append((family.bayes(episode).argmax(-1) == episode.query.y).double().mean())
    scores = torch.stack(right)
    half = half_interval(scores)
    yield {"learner": "exact Bayes", "episodes": len(scores), "score": float(scores.mean()), "half_interval": half}
    nearest = Adaptation(PrototypicalNetwork(nn.Identity(), family.way))
    score, half = judge(nearest, family, config.episodes, seed=TEST_SEED).score(0)
    yield {"learner": "nearest class mean", "episodes": len(scores), "score": score, "half_interval": half}


def trained(config: Config, name: str, seed: int) -> dict[str, Any]:
    """The row of one run, which is finished first where it is not."""
    usual = LearnConfig(learner=name, data="gaussian-classes").resolved()
    assert usual.num_episodes is not None
    steps = -(-config.train_episodes // usual.num_episodes)
    settings = LearnConfig(
        learner=name,
        data="gaussian-classes",
        steps=steps,
        seed=seed,
        evaluate_every=max(1, steps // 10),
        checkpoint_every=max(1, steps // 20),
        validation_episodes=500,
        test_episodes=config.episodes,
        threads=config.threads,
        optimizer=config.optimizer,
    )
    folder = config.out / "_".join((name, *[config.optimizer] * (config.optimizer != "Adam"), str(seed)))
    folder.mkdir(parents=True, exist_ok=True)
    began = folder / "commit.txt"
    if not began.exists():
        began.write_text(commit())
    report = folder / "test.json"
    told = json.loads(report.read_text()) if report.exists() else {}
    if (told.get("steps"), told.get("episodes")) != (steps, config.episodes):
        told = learn(settings, folder, show_progress=False)
    told.pop("by_steps")
    more = {"seed": seed, "train_episodes": steps * usual.num_episodes, "optimizer": config.optimizer}
    return {**told, **more, "trained_at": began.read_text()}


def main(config: Config) -> None:
    """Train, judge, write, show."""
    torch.set_num_threads(config.threads)
    rows = list(run(config))
    keep("gaussian_classes", config, rows, by=("learner", "seed", "optimizer"))
    shown = Table(
        "learner", "accuracy, 95%", "below Bayes", "outer steps", "CPU s", title="Gaussian classes, 5-way 1-shot"
    )
    best = rows[0]["score"]
    for name in dict.fromkeys(row["learner"] for row in rows):
        of = [row for row in rows if row["learner"] == name]
        score, half = (mean(row[key] for row in of) for key in ("score", "half_interval"))
        steps, cpu = (f"{mean(row.get(key, 0) for row in of):,.0f}" for key in ("steps", "cpu_seconds"))
        shown.add_row(name, f"{score:.4f} ± {half:.4f}", f"{best - score:.4f}", steps, cpu)
    Console(width=120).print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

"""How near do learners come to the best possible accuracy, where it is known: on Gaussian classes?

    python -m benchmarks.gaussian_classes --record
    python -m benchmarks.gaussian_classes --rates 3e-4 3e-3 1e-2 --record
    python -m benchmarks.gaussian_classes --learners lstm gru --train-episodes 800000 --record

Class means are N(0, I) in 16 dimensions, examples N(mean, I), 5-way 1-shot. Every learner that classifies is trained on
the same number of episodes, with its own settings beside (see `l2o learn`), and judged on the same 4,000 others;
so are the exact Bayes classifier, which none can beat, and the nearest class mean. Adam has the rate of the learner's
own settings, and others where they are given: the table shows the best by accuracy on episodes kept for that. A run
that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
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
from l2o.load import LEARNER_FILE
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.training.config import to_plain
from l2o.training.evaluate import half_interval
from l2o.training.judge import CHUNK, judge
from l2o.training.learn import LearnConfig
from l2o.training.learn_command import JudgeConfig, judge_saved, learn
from l2o.training.outer import torch_class
from l2o.training.recipes import RECIPES
from l2o.training.run import RunDirectory
from l2o.types import seeded, tree_map

OTHERS = ("convcnp", "tnp-a")
"""Learners of other data: numbers on a line, values (of labels tnp-a is tnp-d)."""

TEST_SEED, CHOICE_SEED = 10**6, 3 * 10**6
"""Of the test episodes of runs with seed 0, see `learn_command.report`; of those by which rates are chosen."""


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        learners: which; all that classify vectors if empty.
        seeds: of weights and episodes; the limits are those on the test episodes of seed 0.
        optimizer: of the weights: a class of torch.optim, or an update rule by name.
        rates: of a class of torch.optim; the learner's own if empty.
        train_episodes: that each learner sees, in as many outer steps as it takes.
        episodes: of the test.
        compile, trace: of meta-gradients, see `l2o learn`: faster for some, which CPU seconds then show.
        threads: CPU threads.
        out: folder of the runs and rows.
        record: keep the rows in benchmarks/results.
    """

    learners: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    optimizer: str = "Adam"
    rates: tuple[float, ...] = ()
    train_episodes: int = 80_000
    episodes: int = 4000
    compile: bool = False
    trace: bool = False
    threads: int = 1
    out: Path = Path("runs/gaussian_classes")
    record: bool = False


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row for each limit, then one a learner, seed and rate."""
    if config.rates and torch_class(config.optimizer) is None:
        raise ValueError(f"rates are of a class of torch.optim, a rule is not tuned; got {config.optimizer!r}.")
    yield from limits(config)
    for name in config.learners or [name for name in RECIPES if name not in OTHERS]:
        for seed, rate in product(config.seeds, config.rates or (None,)):
            row = trained(config, name, seed, rate)
            score = "not finite" if row["score"] is None else f"{row['score']:.4f}, {row['cpu_seconds']:.0f} s"
            print(f"{name:24} {row['optimizer']} {row['lr']} {score}", flush=True)
            yield row


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


def trained(config: Config, name: str, seed: int, rate: float | None) -> dict[str, Any]:
    """The row of one run, which is finished first where it is not, by Adam at a rate or at the learner's own."""
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
        compile=config.compile,
        trace=config.trace,
        threads=config.threads,
        optimizer=config.optimizer,
        lr=rate,
    )
    more = [] if config.optimizer == "Adam" else [config.optimizer]
    more += [] if rate in (None, usual.lr) else [f"{rate:g}"]
    more += [] if config.train_episodes == Config.train_episodes else [f"{config.train_episodes}ep"]
    folder = config.out / "_".join((name, *more, str(seed)))
    folder.mkdir(parents=True, exist_ok=True)
    began = folder / "commit.txt"
    if not began.exists():
        began.write_text(commit())
    RunDirectory(folder, file=LEARNER_FILE).write_config(to_plain(settings.resolved()))  # which fails if it had others
    report = folder / "test.json"
    told = json.loads(report.read_text()) if report.exists() else {}
    if (told.get("steps"), told.get("episodes")) != (steps, config.episodes):
        try:
            told = learn(settings, folder, show_progress=False)
        except ValueError:
            if (folder / "best.safetensors").exists() or not (folder / "ledger.jsonl").exists():
                raise  # it is not that no score was finite
            told = {"learner": name, "steps": steps, "episodes": config.episodes, "score": None, "half_interval": None}
    told.pop("by_steps", None)
    told |= {"seed": seed, "train_episodes": steps * usual.num_episodes, "optimizer": config.optimizer}
    told |= {"lr": settings.resolved().lr, "choice": choice(folder, config.episodes, seed)}
    return {**told, "trained_at": began.read_text()}


def choice(folder: Path, episodes: int, seed: int) -> float | None:
    """Accuracy on other episodes than those of the test, to choose a rate by; None of a run without a finite score."""
    if not (folder / "best.safetensors").exists():
        return None
    found = judge_saved(JudgeConfig(str(folder), part="validation", episodes=episodes, seed=CHOICE_SEED + seed))
    score = found["score"]
    return None if score is None else float(score)


def main(config: Config) -> None:
    """Train, judge, write, show."""
    torch.set_num_threads(config.threads)
    rows = list(run(config))
    keep("gaussian_classes", config, rows, by=("learner", "seed", "optimizer", "lr", "train_episodes"))
    shown = Table(
        "learner", "accuracy, 95%", "below Bayes", "outer steps", "CPU s", title="Gaussian classes, 5-way 1-shot"
    )
    best = rows[0]["score"]
    for name in dict.fromkeys(row["learner"] for row in rows):
        of = [row for row in rows if row["learner"] == name]
        score, half = (mean(row[key] or 0.0 for row in of) for key in ("score", "half_interval"))
        steps, cpu = (f"{mean(row.get(key, 0) for row in of):,.0f}" for key in ("steps", "cpu_seconds"))
        shown.add_row(name, f"{score:.4f} ± {half:.4f}", f"{best - score:.4f}", steps, cpu)
    Console(width=120).print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

"""How near do neural processes come to the exact limits of Gaussian-process regression, and are they calibrated?

    python -m benchmarks.neural_processes --record
    python -m benchmarks.neural_processes --learners tnp-d --steps 100000

Each learner is trained as `l2o learn` trains it, on the family of its task (below), and goes on from its last
checkpoint if it was stopped. Then it is judged on fresh batches of 16 tasks, the same for all and for the limits, which
are computed on the first of them; numbers are nats per target point, mean over points, then batches.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.record import commit, keep
from l2o.files import write_atomically
from l2o.learners import Adaptation, meta_grad
from l2o.learners.neural_process.base import NeuralProcess
from l2o.load import load
from l2o.tasks import gaussian_process_limits as limits
from l2o.tasks.gaussian_process import FIXED_KERNEL, GaussianProcess
from l2o.training.calibration import bands, calibration, evaluating
from l2o.training.evaluate import half_interval
from l2o.training.learn import LearnConfig
from l2o.training.learn_command import learn
from l2o.training.outer import torch_class
from l2o.types import seeded

FAMILIES = {"gp-rbf": GaussianProcess(), "gp-matern": GaussianProcess("matern"), "gp-fixed": FIXED_KERNEL}

LEARNERS: dict[tuple[str, str], dict[str, Any]] = {
    ("cnp", "gp-rbf"): {"steps": 250_000, "lr": 1e-3},
    ("np", "gp-rbf"): {"steps": 50_000},
    ("canp", "gp-rbf"): {"steps": 50_000},
    ("anp", "gp-rbf"): {"steps": 50_000},
    ("tnp-d", "gp-rbf"): {"steps": 100_000},
    ("tnp-a", "gp-rbf"): {"steps": 100_000},
    ("convcnp", "gp-fixed"): {"steps": 10_000, "lr": 1e-3},
}
"""Learner, data, and what is said besides, of which an update rule takes no rate; see `l2o learn --help`."""

TARGETS = {"cnp": 0.25, "anp": 0.8, "tnp-d": 1.43 - 0.15, "tnp-a": 1.81 - 0.25, "convcnp": -0.705 - 0.15}
"""Nats to reach."""

JOINT = ("tnp-a",)
"""Learners whose likelihood is of all targets together."""


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        learners: which; all if empty.
        seeds: of weights and training tasks; those of the judgement are the same for all.
        steps: outer steps, in place of each learner's own.
        optimizer: of the weights: a class of torch.optim, or an update rule by name.
        batches: of 16 tasks, to judge by.
        limit_batches: the first of them, to compute limits on.
        threads: CPU threads.
        device: where learners are trained; they are judged on the CPU.
        out: folder of the runs, rows and pictures.
        record: keep the rows in benchmarks/results.
    """

    learners: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    steps: int | None = None
    optimizer: str = "Adam"
    batches: int = 1000
    limit_batches: int = 200
    threads: int = 1
    device: str = "cpu"
    out: Path = Path("runs/neural_processes")
    record: bool = False


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a learner and seed."""
    for (name, data), settings in LEARNERS.items():
        if config.learners and name not in config.learners:
            continue
        for seed in config.seeds:
            chosen = settings | {"optimizer": config.optimizer}
            chosen |= {} if config.steps is None else {"steps": config.steps}
            chosen |= {} if torch_class(config.optimizer) else {"lr": None}
            folder = config.out / "_".join((name, data, *[config.optimizer] * (config.optimizer != "Adam"), str(seed)))
            told = trained(folder, name, data, seed, config, chosen)
            learner = load(folder / "best.safetensors").learner
            facts = {key: told[key] for key in ("learner", "data", "steps", "cpu_seconds")}
            speed = {"steps_per_cpu_second": throughput(learner)}
            facts |= {"optimizer": config.optimizer, "computed_at": told["computed_at"], "device": config.device}
            yield {**facts, "seed": seed, "settings": chosen, **judged(learner, name, data, config), **speed}
            picture(learner, data, folder / "bands.png")


def trained(folder: Path, name: str, data: str, seed: int, config: Config, settings: dict[str, Any]) -> dict[str, Any]:
    """The report of a run, which is made, or brought to its end, if it is not there."""
    report, stamp = folder / "test.json", folder / "commit"
    if not (stamp.exists() and json.loads(report.read_text())["steps"] == settings["steps"]):
        every = max(1, settings["steps"] // 50)
        usual = LearnConfig(
            learner=name,
            data=data,
            seed=seed,
            threads=config.threads,
            device=config.device,
            evaluate_every=every,
            checkpoint_every=every,
            validation_episodes=1000,
            **settings,
        )
        learn(usual, folder, show_progress=False)
        write_atomically(stamp, commit().encode())
    return json.loads(report.read_text()) | {"computed_at": stamp.read_text()}


def judged(learner: NeuralProcess, name: str, data: str, config: Config) -> dict[str, Any]:
    """Log-likelihood, the limit on the same tasks and how far it is, coverage of intervals."""
    family = FAMILIES[data]
    likelihoods = log_likelihoods(learner, family, config.batches)
    exact = exact_limits(data, config.limit_batches)
    limit = exact["joint" if name in JOINT else "gaussian"]
    same = likelihoods[: len(limit)]
    gap = limit[: len(same)] - same
    found = calibration(learner, family, num_batches=max(1, config.batches // 4), seed=SEED + 1)
    return {
        "log_likelihood": float(likelihoods.mean()),
        "half_interval": half_interval(likelihoods),
        "target": TARGETS.get(name),
        "gap": float(gap.mean()),
        "half_gap": half_interval(gap),
        "limits": {key: float(value.mean()) for key, value in exact.items()},
        "coverage": dict(zip(map(str, found.levels), found.coverage, strict=True)),
        "half_coverage": dict(zip(map(str, found.levels), found.half_intervals, strict=True)),
        "ranks": found.ranks,
        "parameters": sum(p.numel() for p in learner.parameters()),
    }


SEED = 10**6
"""Of the tasks that all are judged on."""


@torch.no_grad()
def log_likelihoods(learner: NeuralProcess, family: GaussianProcess, batches: int) -> Tensor:
    """Of each batch, mean over its targets."""
    generator, found = seeded(SEED), []
    with evaluating(learner):
        for _ in range(batches):
            loss, _ = learner.feed_forward(family.sample_many(generator, 16))
            found.append(-loss.mean().double())
    return torch.stack(found)


@lru_cache
def exact_limits(data: str, batches: int) -> dict[str, Tensor]:
    """Of each batch; with the kernel known, and integrated over."""
    family, generator, rows = FAMILIES[data], seeded(SEED), []
    for _ in range(batches):
        episodes, of = family.draw(generator, 16)
        known, found = limits.known(family, episodes, of), limits.integrated(family, episodes, tolerance=5e-3)
        rows.append([x.mean() for x in (known.diagonal, known.joint, *found[:3])])
    names = ("known_diagonal", "known_joint", "diagonal", "gaussian", "joint")
    return dict(zip(names, torch.tensor(rows).double().T, strict=True))


def throughput(learner: NeuralProcess, num: int = 40) -> float:
    """Training steps of 16 tasks of 24 context and 13 target points, Adam's among them, by the median's CPU time."""
    adaptation = Adaptation(copy.deepcopy(learner).train())
    episodes = GaussianProcess(context=(24, 24), target=(13, 13)).sample_many(seeded(0), 16)
    optimizer, seconds = torch.optim.Adam(adaptation.parameters(), 1e-5), []
    for _ in range(num):
        begun = time.process_time()
        found = meta_grad(adaptation, episodes)
        for key, p in adaptation.named_parameters():
            p.grad = found.grads[key]
        optimizer.step()
        seconds.append(time.process_time() - begun)
    return 1 / median(seconds)


def picture(learner: NeuralProcess, data: str, path: Path) -> None:
    """Predictions of four tasks."""
    family = dataclasses.replace(FAMILIES[data], context=(12, 12), target=(20, 20))
    bands(learner, family.sample_many(seeded(7), 4)).savefig(path, dpi=120)


def main(config: Config) -> None:
    """Train, judge, write, show."""
    torch.set_num_threads(config.threads)
    rows = list(run(config))
    keep("neural_processes", config, rows, by=("learner", "data", "seed", "optimizer"))
    shown = Table("learner", "data", "nats", "target", "below its limit", "90% covers", "steps", "CPU min")
    for row in rows:
        shown.add_row(
            row["learner"],
            row["data"],
            f"{row['log_likelihood']:.3f} ± {row['half_interval']:.3f}",
            "" if row["target"] is None else f"{row['target']:.3f}",
            f"{row['gap']:.3f} ± {row['half_gap']:.3f}",
            f"{100 * row['coverage']['0.9']:.1f}%",
            f"{row['steps']:,}",
            f"{row['cpu_seconds'] / 60:.0f}",
        )
    Console(width=140).print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

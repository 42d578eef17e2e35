"""How well do learners regress sinusoids from 10 points, after each number of inner steps? (Finn et al., 2017, 5.1)

    python -m benchmarks.sinusoid --record

Every learner has the same network (1-40-40-1), the same number of outer steps and of tasks in each, and its own
settings beside (below). Numbers are mean squared errors on 1,000 fresh tasks of 100 query points, from 0 to 10 steps
whatever the learner was trained for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.record import keep
from l2o.training.learn import LearnConfig
from l2o.training.learn_command import learn

SETTINGS: dict[str, dict[str, Any]] = {
    "maml": {},
    "fomaml": {},
    "anil": {},
    "boil": {},
    "meta-sgd": {},
    "meta-curvature": {},
    "cavia": {"inner_lr": 1.0},
    "imaml": {"inner_lr": 0.003, "inner_steps": 16, "compile": False, "trace": True},
    "meta-lstm": {"compile": False, "trace": True},
    "reptile": {"inner_lr": 0.02, "inner_steps": 10, "inner_batch": 10},
}
"""What is said besides the learner's name; see `l2o learn --help`."""

ASKED_FOR = ("imaml", "meta-lstm")
"""Made only where they are named. iMAML's error rises again after some thousand steps, at every inner rate tried: its
gradient does not see how the steps fare. The LSTM takes three quarters of an hour a seed."""


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        learners: which; all but those that are to be asked for if empty.
        seeds: of weights and training tasks; test tasks are the same for all.
        steps: outer steps.
        threads: CPU threads.
        out: folder of the runs and rows.
        record: keep the rows in benchmarks/results.
    """

    learners: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 15000
    threads: int = 1
    out: Path = Path("runs/sinusoid")
    record: bool = False


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a learner and seed."""
    for name in config.learners or [name for name in SETTINGS if name not in ASKED_FOR]:
        for seed in config.seeds:
            settings = LearnConfig(
                learner=name,
                data="sinusoid",
                steps=config.steps,
                seed=seed,
                evaluate_every=3000,
                checkpoint_every=3000,
                threads=config.threads,
                **{"compile": True, **SETTINGS[name]},
            )
            told = learn(settings, config.out / f"{name}_{seed}", show_progress=False)
            errors = {step: mean for step, (mean, _) in told.pop("by_steps").items()}
            yield {**told, "seed": seed, "settings": SETTINGS[name], "errors": finite(errors)}


def finite(errors: dict[str, float | None]) -> dict[str, float | None]:
    """Errors by step, None where one is not finite or beyond that of saying 0 twenty times over: it diverges there."""
    return {step: error if error is not None and error < 100 else None for step, error in errors.items()}


def main(config: Config) -> None:
    """Train, judge, write, show."""
    torch.set_num_threads(config.threads)
    rows = list(run(config))
    keep("sinusoid", config, rows)
    steps = [str(step) for step in range(11)]
    shown = Table("learner", "trained at", *steps, "CPU s", title="mean squared error after so many steps")
    for name in dict.fromkeys(row["learner"] for row in rows):
        of = [row for row in rows if row["learner"] == name]
        cells = []
        for step in steps:
            errors = [row["errors"].get(step) for row in of]
            known = [error for error in errors if error is not None]
            cells.append(f"{sum(known) / len(known):.3f}" if len(known) == len(errors) else "diverges")
        cpu = sum(row["cpu_seconds"] for row in of) / len(of)
        shown.add_row(name, str(of[0]["inner_steps"]), *cells, f"{cpu:.0f}")
    Console(width=160).print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

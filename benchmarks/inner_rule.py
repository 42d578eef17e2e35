"""Does a learned optimizer adapt better in 5 steps than SGD at its best rate? (MAML's inner loop, held-out tasks)

    python -m benchmarks.inner_rule --record

Both go on from the same MAML: trained with SGD for 5 inner steps, its rate and the outer rate the best of a sweep on
validation tasks. From there on weights and rule are trained together: SGD as it was, for as many outer steps as the
LSTM, and for twenty times as many; the LSTM, which writes the rate of every coordinate and is SGD at first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.record import RESULTS, write
from l2o.load import LEARNER_FILE, load
from l2o.training.judge import judge
from l2o.training.learn import LearnConfig
from l2o.training.learn_command import learn
from l2o.training.report import plain
from l2o.training.run import RunDirectory

RATES = tuple(round(10 ** (k / 2), 6) for k in range(-6, 1))
"""Inner rates, from 0.001 to 1, two a decade."""

OUTER_RATES = (0.001, 0.003)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        data: named sources of episodes.
        seeds: of weights and training tasks.
        first_steps: outer steps of the MAML that both go on from.
        steps: outer steps from there on.
        longer: times as many for SGD, in rows of their own.
        inner_steps: steps of either rule.
        hidden_size: of the LSTM, which has one layer.
        lr: outer rate of LSTM and weights together; SGD has the best of its sweep.
        test_episodes: held-out tasks.
        threads: CPU threads.
        out: folder of the runs and rows.
        record: keep the rows in benchmarks/results.
    """

    data: tuple[str, ...] = ("sinusoid", "gaussian-classes")
    seeds: tuple[int, ...] = (0, 1, 2)
    first_steps: int = 10000
    steps: int = 2000
    longer: int = 20
    inner_steps: int = 5
    hidden_size: int = 10
    lr: float = 0.003
    test_episodes: int = 4000
    threads: int = 1
    out: Path = Path("runs/inner_rule")
    record: bool = False


class Trained(NamedTuple):
    """A finished run.

    report: of `l2o learn`, on test tasks.
    validation: mean score on validation tasks.
    file: of the learner.
    """

    report: dict[str, Any]
    validation: float
    file: Path


def trained(config: Config, data: str, name: str, seed: int, **settings: Any) -> Trained:
    """A run that is made, or taken as it stands if it was before."""
    made = LearnConfig(
        learner="maml",
        data=data,
        inner_steps=config.inner_steps,
        test_steps=config.inner_steps,
        seed=seed,
        evaluate_every=1000,
        checkpoint_every=1000,
        test_episodes=config.test_episodes,
        threads=config.threads,
        compile=True,
        **settings,
    )
    folder = config.out / f"{data}_{name}_{seed}"
    report = learn(made, folder, show_progress=False)
    file = RunDirectory(folder, file=LEARNER_FILE).best
    found = judge(load(file), made.suite().validation, 1000, seed=10**5 + 1)
    return Trained(report, found.score(config.inner_steps)[0], file)


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a source, rule and seed."""
    for data in config.data:
        sign = 1 if data == "sinusoid" else -1

        def first(rate: float, lr: float, seed: int, data: str = data) -> Trained:
            name = f"first_{rate}_{lr}"
            return trained(config, data, name, seed, steps=config.first_steps, inner_lr=rate, lr=lr)

        swept = {}
        for both in product(RATES, OUTER_RATES):
            try:
                swept[both] = first(*both, config.seeds[0]).validation
            except ValueError:  # no evaluation of it was finite
                swept[both] = math.nan
        usable = {both: score for both, score in swept.items() if math.isfinite(score)}
        rate, lr = min(usable, key=lambda both: sign * usable[both])
        told = {
            "rate": rate,
            "lr": lr,
            "swept": {f"{rate}, {lr}": plain(score) for (rate, lr), score in swept.items()},
        }
        for seed in config.seeds:
            start = str(first(rate, lr, seed).file)
            for name, times in (("SGD", 1), ("SGD, longer", config.longer)):
                steps = times * config.steps
                report = trained(config, data, f"sgd{times}", seed, start=start, steps=steps, inner_lr=rate, lr=lr)[0]
                yield _row(config, report, name, seed) | told
            report = trained(
                config,
                data,
                "lstm",
                seed,
                start=start,
                steps=config.steps,
                lr=config.lr,
                rule="lstm",
                rule_args={"base_lr": rate, "hidden_size": config.hidden_size, "num_layers": 1},
                learn_rule=True,
            )[0]
            yield _row(config, report, "LSTM", seed)


def _row(config: Config, told: dict[str, Any], rule: str, seed: int) -> dict[str, Any]:
    by_steps = {step: plain(mean) for step, (mean, _) in told["by_steps"].items()}
    score, half = told["by_steps"][str(config.inner_steps)]
    kept = {name: told[name] for name in ("data", "measure", "episodes", "cpu_seconds")}
    return {**kept, "rule": rule, "seed": seed, "score": score, "half_interval": half, "by_steps": by_steps}


def main(config: Config) -> None:
    """Train, judge, write, show."""
    torch.set_num_threads(config.threads)
    rows = list(run(config))
    for folder in [config.out, RESULTS] if config.record else [config.out]:
        write("inner_rule", config, rows, folder)
    shown = Table("data", "rule", "seed", "score after 5 steps, 95%", "measure", "CPU s")
    for row in rows:
        rule = row["rule"] if "rate" not in row else f"{row['rule']}, rate {row['rate']:g}"
        score = f"{row['score']:.4f} ± {row['half_interval']:.4f}"
        shown.add_row(row["data"], rule, str(row["seed"]), score, row["measure"], f"{row['cpu_seconds']:.0f}")
    Console(width=140).print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

"""Does a learned optimizer adapt better in 5 steps than SGD at its best rate? (MAML's inner loop, held-out tasks)

    python -m benchmarks.inner_rule --record

All go on from the same MAML: trained with SGD for 5 inner steps, its rate and the outer rate the best of a sweep on
validation tasks. From there on the weights are trained with SGD as it was, for as many outer steps as the LSTM and for
twenty times as many, with SGD and Meta-SGD whose rates are learned along, and with the LSTM, which writes the rate of
every coordinate in every step and is SGD at first; each with the best outer rate of two on validation tasks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.record import commit, keep
from l2o.files import write_atomically
from l2o.load import LEARNER_FILE, load
from l2o.training.evaluate import half_interval
from l2o.training.judge import judge
from l2o.training.learn import LearnConfig
from l2o.training.learn_command import learn
from l2o.training.report import plain
from l2o.training.run import RunDirectory

RATES = tuple(round(10 ** (k / 2), 6) for k in range(-6, 1))
"""Inner rates, from 0.001 to 1, two a decade."""

OUTER_RATES = (0.001, 0.003)
"""Tried for every rule."""


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
    test_episodes: int = 4000
    threads: int = 1
    out: Path = Path("runs/inner_rule")
    record: bool = False


class Trained(NamedTuple):
    """A finished run.

    report: of `l2o learn`, on test tasks.
    validation: mean score on validation tasks.
    file: of the learner.
    scores: of each test task, after the inner steps.
    """

    report: dict[str, Any]
    validation: float
    file: Path
    scores: Tensor


def trained(config: Config, data: str, name: str, seed: int, **settings: Any) -> Trained:
    """A run that is made, or taken as it stands if it was before."""
    made = LearnConfig(
        **{"learner": "maml", **settings},
        data=data,
        inner_steps=config.inner_steps,
        test_steps=config.inner_steps,
        seed=seed,
        evaluate_every=1000,
        checkpoint_every=1000,
        test_episodes=config.test_episodes,
        threads=config.threads,
    )
    directory = RunDirectory(config.out / f"{data}_{name}_{made.steps}_{seed}", file=LEARNER_FILE)
    stamp = directory.path / "commit"
    if not stamp.exists():
        learn(made, directory.path, show_progress=False)
        write_atomically(stamp, commit().encode())
    report = json.loads((directory.path / "test.json").read_text())
    best, suite = load(directory.best), made.suite()
    validation = judge(best, suite.validation, 1000, seed=10**5 + 1).score(config.inner_steps)[0]
    tested = judge(best, suite.test, config.test_episodes, seed=10**6 + seed)
    return Trained(report | {"computed_at": stamp.read_text()}, validation, directory.best, tested.scores[:, 0])


def swept(make: Callable[..., Trained], sign: int, *grid: Sequence[float]) -> tuple[tuple[float, ...], dict[str, Any]]:
    """The values with the best score on validation tasks, and all scores.

    Arguments:
        sign: -1 where higher is better.
    """
    scores = {}
    for values in product(*grid):
        try:
            scores[values] = make(*values).validation
        except ValueError:  # no evaluation of it was finite
            scores[values] = math.nan
    usable = {values: score for values, score in scores.items() if math.isfinite(score)}
    best = min(usable, key=lambda values: sign * usable[values])
    return best, {", ".join(map(str, values)): plain(score) for values, score in scores.items()}


def first(config: Config, data: str, seed: int, rate: float, lr: float) -> Trained:
    """MAML trained with SGD, that all go on from."""
    settings = {"steps": config.first_steps, "inner_lr": rate, "lr": lr, "compile": True}
    return trained(config, data, f"first_{rate}_{lr}", seed, **settings)


def rules(config: Config, rate: float) -> dict[str, dict[str, Any]]:
    """What goes on from there, by name; SGD comes first."""
    lstm = {"base_lr": rate, "hidden_size": config.hidden_size, "num_layers": 1}
    return {
        "SGD": {"inner_lr": rate, "trace": True},
        "SGD, longer": {"inner_lr": rate, "compile": True, "steps": config.longer * config.steps},
        "SGD, learned rate": {"inner_lr": rate, "learn_rule": True, "trace": True},
        "Meta-SGD": {"learner": "meta-sgd", "inner_lr": rate, "trace": True},
        "LSTM": {"rule": "lstm", "rule_args": lstm, "learn_rule": True, "compile": True},
    }


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a source, rule and seed."""
    for data in config.data:
        sign, begin = 1 if data == "sinusoid" else -1, config.seeds[0]
        (rate, first_lr), told = swept(partial(first, config, data, begin), sign, RATES, OUTER_RATES)
        starts = {seed: str(first(config, data, seed, rate, first_lr).file) for seed in config.seeds}
        facts = {"rate": rate, "first_lr": first_lr, "swept": told}
        rates: dict[str, tuple[float, ...]] = {}
        of_sgd: dict[int, Tensor] = {}
        for rule, settings in rules(config, rate).items():

            def second(seed: int, lr: float, rule: str = rule, settings: Any = settings) -> Trained:
                name = f"{rule.lower().replace(', ', '_').replace(' ', '_')}_{lr}"
                usual = {"steps": config.steps, "start": starts[seed], "lr": lr}  # noqa: B023 - called in this turn
                return trained(config, data, name, seed, **{**usual, **settings})  # noqa: B023

            again = rule == "SGD, longer"  # its sweep would take as long as all others
            rates[rule] = rates["SGD"] if again else swept(partial(second, begin), sign, OUTER_RATES)[0]
            for seed in config.seeds:
                found = second(seed, rates[rule][0])
                gain = _gain(sign * (of_sgd.setdefault(seed, found.scores) - found.scores))
                yield _row(config, found, rule, seed) | gain | facts | {"lr": rates[rule][0]}


def _gain(differences: Tensor) -> dict[str, Any]:
    """How much better than SGD on the same tasks, and half its 95% interval."""
    return {"gain": plain(float(differences.double().mean())), "half_gain": plain(half_interval(differences))}


def _row(config: Config, found: Trained, rule: str, seed: int) -> dict[str, Any]:
    told = found.report
    by_steps = {step: plain(mean) for step, (mean, _) in told["by_steps"].items()}
    score, half = told["by_steps"][str(config.inner_steps)]
    kept = {name: told[name] for name in ("data", "measure", "episodes", "steps", "cpu_seconds", "computed_at")}
    return {**kept, "rule": rule, "seed": seed, "score": score, "half_interval": half, "by_steps": by_steps}


def main(config: Config) -> None:
    """Train, judge, write, show."""
    torch.set_num_threads(config.threads)
    rows = list(run(config))
    keep("inner_rule", config, rows)
    shown = Table("data", "rule", "seed", "score after 5 steps, 95%", "better than SGD by, 95%", "measure", "CPU s")
    for row in rows:
        score = f"{row['score']:.4f} ± {row['half_interval']:.4f}"
        gain = "" if row["rule"] == "SGD" else f"{row['gain']:.4f} ± {row['half_gain']:.4f}"
        cells = (row["data"], row["rule"], str(row["seed"]), score, gain, row["measure"], f"{row['cpu_seconds']:.0f}")
        shown.add_row(*cells)
    Console(width=140).print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

"""Does a learned optimizer adapt better in 5 steps than SGD at its best rate? (MAML's inner loop, held-out tasks)

    python -m benchmarks.inner_rule --record

Both have a learned initialisation, trained for the same 5 inner steps over the same outer steps and tasks. SGD's rate
is swept: each rate gets a training of its own, and the best on validation tasks is trained again from all seeds. The
LSTM rule (Ravi and Larochelle, 2017), which starts out as SGD with a small rate, is trained along with the
initialisation. (The coordinatewise LSTM of Andrychowicz et al., 2016, has to learn the size of a step from nothing.)
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

from benchmarks.record import RESULTS, write
from l2o.load import LEARNER_FILE, load
from l2o.training.judge import judge
from l2o.training.learn import LearnConfig
from l2o.training.learn_command import learn
from l2o.training.run import RunDirectory

RATES = tuple(round(10 ** (k / 2), 6) for k in range(-6, 1))
"""From 0.001 to 1, two a decade."""


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        data: named sources of episodes.
        seeds: of weights and training tasks.
        steps: outer steps.
        inner_steps: steps of either rule.
        hidden_size: of the LSTM.
        threads: CPU threads.
        out: folder of the runs and rows.
        record: keep the rows in benchmarks/results.
    """

    data: tuple[str, ...] = ("sinusoid", "gaussian-classes")
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 3000
    inner_steps: int = 5
    hidden_size: int = 10
    threads: int = 1
    out: Path = Path("runs/inner_rule")
    record: bool = False


def trained(config: Config, data: str, name: str, seed: int, **settings: Any) -> tuple[dict[str, Any], float]:
    """The report of one training, and its mean score on validation tasks."""
    made = LearnConfig(
        learner="maml",
        data=data,
        inner_steps=config.inner_steps,
        steps=config.steps,
        seed=seed,
        evaluate_every=500,
        checkpoint_every=500,
        threads=config.threads,
        **settings,
    )
    folder = config.out / f"{data}_{name}_{seed}"
    told = learn(made, folder, show_progress=False)
    best = load(RunDirectory(folder, file=LEARNER_FILE).best)
    found = judge(best, made.suite().validation, 500, seed=10**5 + 1)
    return told, found.score(config.inner_steps)[0]


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a source, rule and seed."""
    for data in config.data:
        better = min if data == "sinusoid" else max
        swept = {rate: trained(config, data, f"sgd{rate}", config.seeds[0], inner_lr=rate)[1] for rate in RATES}
        usable = {rate: score for rate, score in swept.items() if score == score}
        rate = better(usable, key=lambda rate: usable[rate])
        for seed in config.seeds:
            told, _ = trained(config, data, f"sgd{rate}", seed, inner_lr=rate)
            yield _row(config, told, "SGD", seed) | {
                "rate": rate,
                "swept": {str(k): _plain(v) for k, v in swept.items()},
            }
            settings = {"rule": "metalstm", "rule_args": {"hidden_size": config.hidden_size}}
            told, _ = trained(config, data, "lstm", seed, learn_rule=True, **settings)
            yield _row(config, told, "LSTM", seed)


def _row(config: Config, told: dict[str, Any], rule: str, seed: int) -> dict[str, Any]:
    by_steps = {step: mean for step, (mean, _) in told["by_steps"].items()}
    half = told["by_steps"][str(config.inner_steps)][1]
    kept = {name: told[name] for name in ("data", "measure", "episodes", "cpu_seconds")}
    score = by_steps[str(config.inner_steps)]
    return {**kept, "rule": rule, "seed": seed, "score": score, "half_interval": half, "by_steps": by_steps}


def _plain(value: float) -> float | None:
    return value if abs(value) < 1e6 else None


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

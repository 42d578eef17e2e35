"""How near does a transformer that learns in context come to ridge and lasso, and what does it do out of distribution?

    python -m benchmarks.in_context --record
    python -m benchmarks.in_context --data sparse-linear --optimizer Adam --lr 1e-3 --steps 40000

(Garg et al., 2022.) Each learner is trained as `l2o learn` trains it, and goes on from its last checkpoint if it was
stopped, or is asked for more steps. Then it predicts a query of fresh functions from k examples, as do the known
methods from the same ones: with inputs as in training, inputs half and twice as large, and more examples than it ever
saw. Errors are squared, over the number of inputs, as in the paper; `error` is to the value with its noise, `clean` to
that without.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.record import commit, keep, markdown, read
from l2o.files import write_atomically
from l2o.learners.adaptation import Adaptation
from l2o.load import load
from l2o.tasks.episodes import Examples
from l2o.tasks.function_classes import FunctionClass
from l2o.tasks.function_limits import lasso, least_squares, nearest, ridge
from l2o.training.episode_suites import Shape, load_episodes
from l2o.training.evaluate import half_interval
from l2o.training.learn import LearnConfig
from l2o.training.learn_command import learn
from l2o.training.outer import torch_class
from l2o.types import seeded

ALPHAS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Of lasso; the best for each number of examples, on functions of their own."""

Method = Callable[[Examples, Tensor], Tensor]


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        learners: which; the second is the control with linear attention.
        data: named classes of functions.
        seeds: of weights and training functions; those of the judgement are the same for all.
        steps: outer steps.
        optimizer: of the weights: a class of torch.optim, which gets a warm-up, a cosine and clipped gradients, or an
            update rule, which needs none of these.
        lr: its rate; None for the usual one.
        examples: numbers k of examples to judge at. Training has 20 at most (40 for networks and trees).
        functions: to judge by, at each k.
        threads: CPU threads.
        out: folder of the runs and rows.
        record: keep the rows in benchmarks/results.
    """

    learners: tuple[str, ...] = ("in-context", "in-context-linear")
    data: tuple[str, ...] = ("linear",)
    seeds: tuple[int, ...] = (0,)
    steps: int = 3000
    optimizer: str = "default"
    lr: float | None = None
    examples: tuple[int, ...] = (1, 2, 3, 5, 10, 15, 20, 30, 40)
    functions: int = 10_000
    threads: int = 1
    out: Path = Path("runs/in_context")
    record: bool = False


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a class, learner, seed and kind of inputs."""
    for data in config.data:
        for name in config.learners:
            for seed in config.seeds:
                folder = config.out / f"{name}_{data}_{config.optimizer}_{seed}"
                told = trained(folder, name, data, seed, config)
                found = load(folder / "best.safetensors")
                assert isinstance(found, Adaptation)
                facts = {key: told[key] for key in ("learner", "data", "steps", "cpu_seconds", "computed_at")}
                facts["optimizer"] = config.optimizer
                for inputs, scale in {"as in training": 1.0, "half": 0.5, "twice": 2.0}.items():
                    by_k = {str(k): judged(found, data, k, scale, config) for k in config.examples}
                    yield {**facts, "seed": seed, "inputs": inputs, "by_examples": by_k}


def trained(folder: Path, name: str, data: str, seed: int, config: Config) -> dict[str, Any]:
    """The report of a run, which is made, or brought to its end, if it is not there."""
    report, stamp = folder / "test.json", folder / "commit"
    if not (stamp.exists() and json.loads(report.read_text())["steps"] == config.steps):
        settings = LearnConfig(
            learner=name,
            data=data,
            seed=seed,
            steps=config.steps,
            optimizer=config.optimizer,
            lr=config.lr,
            warmup=500 if torch_class(config.optimizer) else 0,
            threads=config.threads,
            evaluate_every=1000,
            checkpoint_every=500,
            validation_episodes=1000,
        )
        learn(settings, folder, show_progress=False)
        write_atomically(stamp, commit().encode())
    return json.loads(report.read_text()) | {"computed_at": stamp.read_text()}


def judged(learner: Adaptation, data: str, k: int, scale: float, config: Config) -> dict[str, Any]:
    """Errors at k examples of the learner and of the known methods, on the same functions; and ratios to the best."""
    family = load_episodes(data, Shape(shot=k, query=1)).test
    assert isinstance(family, FunctionClass)
    family = replace(family, scale=scale)
    methods = {"transformer": _predictor(learner), **known(family)}
    errors: dict[str, list[Tensor]] = {name: [] for name in methods}
    clean: dict[str, list[Tensor]] = {name: [] for name in methods}
    generator = seeded(10**6 + k)
    for start in range(0, config.functions, 1000):
        episodes, values = family.draw(generator, min(1000, config.functions - start))
        for name, predict in methods.items():
            said = predict(episodes.support, episodes.query.x).double().flatten()
            errors[name].append((said - episodes.query.y.double().flatten()).square() / family.dim)
            clean[name].append((said - values.double().flatten()).square() / family.dim)
    found = {name: torch.cat(parts) for name, parts in errors.items()}
    best = min((name for name in found if name != "transformer"), key=lambda name: float(found[name].mean()))
    ratio, half = _ratio(found["transformer"], found[best])
    return {
        "error": {name: float(x.mean()) for name, x in found.items()},
        "half_error": {name: half_interval(x) for name, x in found.items()},
        "clean": {name: float(torch.cat(parts).mean()) for name, parts in clean.items()},
        "best": best,
        "ratio": ratio,
        "half_ratio": half,
    }


@torch.no_grad()
def _predictor(adaptation: Adaptation) -> Method:
    of = adaptation.eval().learner

    @torch.no_grad()
    def predict(support: Examples, x: Tensor) -> Tensor:
        return of.predict(of.start(support), x)

    return predict


def known(family: FunctionClass) -> dict[str, Method]:
    """What is known to be good at a class of functions."""
    methods: dict[str, Method] = {"least squares": least_squares, "3 nearest": nearest}
    sparsity = getattr(family, "sparsity", None)
    if family.noise:
        # over that of a weight: the best that is linear
        variance = family.noise**2 * family.dim / min(sparsity or family.dim, family.dim)
        methods["ridge"] = lambda support, x: ridge(support, x, variance)
    if sparsity is not None:
        alpha = min(ALPHAS, key=lambda alpha: _error(family, alpha))
        methods["lasso"] = lambda support, x: lasso(support, x, alpha)
    return methods


def _error(family: FunctionClass, alpha: float) -> float:
    episodes = family.sample_many(seeded(5), 500)
    return float((lasso(episodes.support, episodes.query.x, alpha) - episodes.query.y).square().mean())


def _ratio(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Of means, with half its 95% interval (delta method on pairs)."""
    ratio = a.mean() / b.mean()
    return float(ratio), half_interval((a - ratio * b) / b.mean())


def table() -> str:
    """For the docs."""
    rows, shown = sorted(read("in_context"), key=lambda row: row["data"]), ("1", "5", "10", "15", "20", "40")
    heads = ["functions", "attention", "trained by", "inputs", *(f"k = {k}" for k in shown)]
    lines = []
    for row in rows:
        kind = "linear" if row["learner"].endswith("linear") else "softmax"
        cells = [_cell(row["by_examples"][k], "sparse" in row["data"]) for k in shown]
        trained_by = f"{row['optimizer']}, {row['steps']:,} steps, {row['cpu_seconds'] / 60:.0f} min"
        lines.append([row["data"], kind, trained_by, row["inputs"], *cells])
    caption = (
        "Squared error over the number of inputs after k examples, in brackets over that of the best of least squares, "
        "ridge, lasso and 3 nearest neighbours on the same functions, with 95% intervals (exact: the best makes next "
        "to no error); LS, ridge: over that of least squares, and of ridge with the best variance. In training k is at "
        "most 20. "
        f"{rows[0]['config']['functions']:,} functions of one seed; minutes of training are of the CPU. "
        f"{rows[0]['machine']}, commits {', '.join(sorted({row['computed_at'] for row in rows}))}."
    )
    return markdown(heads, lines, caption)


def _cell(found: dict[str, Any], sparse: bool) -> str:
    """The error, and what it is beside others'."""
    error = found["error"]
    if found["ratio"] > 100:  # without noise the best may be right to the last digit
        return f"{error['transformer']:.3f} (exact)"
    ratios = [f"{found['ratio']:.2f} ± {found['half_ratio']:.2f}"]
    for name, title in (("least squares", "LS"), ("ridge", "ridge")):
        if sparse and name in error:
            ratios.append(f"{title} {error['transformer'] / error[name]:.2f}")
    return f"{error['transformer']:.3f} ({'; '.join(ratios)})"


def main(config: Config) -> None:
    """Train, judge, write, show."""
    torch.set_num_threads(config.threads)
    rows = list(run(config))
    keep("in_context", config, rows, by=("data", "learner", "seed", "inputs", "optimizer"))
    shown = Table("data", "learner", "seed", "inputs", *(f"k={k}" for k in config.examples), "CPU s")
    for row in rows:
        cells = [
            f"{found['error']['transformer']:.3f}\n{found['ratio']:.2f} x {found['best']}"
            for found in row["by_examples"].values()
        ]
        facts = (row["data"], row["learner"], str(row["seed"]), row["inputs"])
        shown.add_row(*facts, *cells, f"{row['cpu_seconds']:.0f}")
    Console(width=200).print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

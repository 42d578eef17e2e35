"""Does the optimizer in the box, untuned, train a network far larger than those that it was meta-trained on?

    python -m benchmarks.gpu_training --record          # on a machine with a GPU
    python -m benchmarks.gpu_training --methods adamw   # its runs alone; they are kept, and found again

A GPT of 10.8 million parameters reads questions to a bank, computing in bfloat16 where torch deems it safe. AdamW and
Muon get a warm-up, a cosine and the best of several rates; ours, and AdamW at 1e-3, get nothing. What a rate was chosen
by is what is reported, so the baselines are flattered. Times are of the clock, model and optimizer apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.optimizers import methods
from benchmarks.optimizers.language import LARGE
from benchmarks.optimizers.measures import final, smooth, steps_to, thinned
from benchmarks.optimizers.sweep import Store
from benchmarks.optimizers.train import Curve, Run
from benchmarks.record import keep, markdown, read
from l2o.training.report import plain

RATES = {"adamw": (-7, -6, -5), "muon": (-6, -5, -4)}
"""Half decades of the learning rates that are tried."""


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        rule: the learned optimizer, a name or path that `l2o.load` takes.
        methods: ours, adamw, adamw-1e-3, muon; all but AdamW are measured against it.
        steps: of each run.
        seeds: of weights and batches.
        device: which GPU.
        out: folder of runs and rows.
        record: keep the rows in benchmarks/results.
    """

    rule: str = "default"
    methods: tuple[str, ...] = ("ours", "adamw", "adamw-1e-3", "muon")
    steps: int = 2000
    seeds: tuple[int, ...] = (0,)
    device: str = "cuda"
    out: Path = Path("runs/gpu_training")
    record: bool = False


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a method, at its best rate."""
    store, found = Store(config.out / "runs"), {}
    for name, method in methods.chosen(config.methods, config.rule).items():
        tried = {
            k: [store.get(_run(config, method, k, seed)) for seed in config.seeds]
            for k in RATES.get(name, (method.fixed,))
        }
        finals = {k: float(np.mean([final(curve.losses) for curve in curves])) for k, curves in tried.items()}
        best = min(finals, key=finals.__getitem__)
        found[name] = best, finals, tried[best]
    target = found["adamw"][1][found["adamw"][0]] if "adamw" in found else None
    for name, (best, finals, curves) in found.items():
        yield {"method": name, "gpu": torch.cuda.get_device_name(config.device), **_row(best, finals, curves, target)}


def _run(config: Config, method: methods.Method, half_decades: int, seed: int) -> Run:
    problem = replace(LARGE, steps=config.steps)
    return Run(problem, method, half_decades, seed, config.steps, autocast=True, device=config.device)


def _row(best: int, finals: dict[int, float], curves: list[Curve], target: float | None) -> dict[str, Any]:
    """What is told of a method."""
    losses = np.stack([curve.losses for curve in curves])
    validation = np.stack([curve.validation for curve in curves])
    steps, thin = thinned(losses)
    ms = [float(np.median([getattr(curve, key) for curve in curves])) for key in ("model_ms", "optimizer_ms")]
    row = {
        "parameters": curves[0].num_parameters,
        "rate": methods.rate(best),
        "swept": {str(methods.rate(k)): value for k, value in finals.items()},
        "steps": losses.shape[1],
        "final": finals[best],
        "validation": float(validation[:, -1].mean()),
        "best_validation": float(validation.min(axis=1).mean()),
        "model_ms": ms[0],
        "optimizer_ms": ms[1],
        "curve_steps": steps[::5].tolist(),
        "curve": np.median(smooth(losses), axis=0)[steps[::5] - 1].tolist(),
    }
    if target is not None:
        reached = float(np.median(steps_to(steps, thin, target)))
        row |= {"steps_to_adamw": reached, "seconds_to_adamw": reached * sum(ms) / 1e3}
    return {key: plain(value) for key, value in row.items()}


def table() -> str:
    """The recorded rows in Markdown."""
    rows = [row for row in read("gpu_training") if row["steps"] == Config.steps]
    titles = {"ours": "the optimizer in the box", "adamw": "AdamW", "adamw-1e-3": "AdamW 1e-3", "muon": "Muon"}
    heads = ["optimizer", "rate, of those tried", "loss", "best validation", "steps to AdamW's loss"]
    lines = []
    for row in rows:
        tried = f"{row['rate']:g} of {len(row['swept'])}" if len(row["swept"]) > 1 else f"{row['rate']:g}, fixed"
        cells = [titles[row["method"]], tried, *(f"{row[key]:.3f}" for key in ("final", "best_validation"))]
        reached = row.get("steps_to_adamw")
        lines.append([*cells, "" if row["method"] == "adamw" else "never" if reached is None else f"{reached:,.0f}"])
    first = rows[0]
    caption = (
        f"A GPT of {first['parameters']:,} parameters, {first['steps']:,} steps in bfloat16 where torch deems it safe, "
        f"{len(first['config']['seeds'])} seed; loss: mean of the last 5% of steps. {first['gpu']}, torch "
        f"{first['versions']['torch']}, commit {first['commit']}."
    )
    return markdown(heads, lines, caption)


def main(config: Config) -> None:
    """Train, write, show."""
    rows = list(run(config))
    keep("gpu_training", config, rows, by=("gpu", "method", "steps"))
    columns = ("rate", "final", "best_validation", "steps_to_adamw", "seconds_to_adamw", "model_ms", "optimizer_ms")
    shown = Table("method", *columns, title=f"{rows[0]['parameters']:,} parameters, {rows[0]['gpu']}")
    for row in rows:
        cells = ["" if row.get(key) is None else f"{row[key]:.4g}" for key in columns]
        shown.add_row(row["method"], *cells)
    Console(width=120).print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

"""The table of `benchmarks.meta_icl`: what MetaICL gains, over trained models and draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from statistics import fmean
from typing import Any

import torch

from benchmarks.meta_icl import WAYS
from benchmarks.record import markdown, read
from l2o.training.evaluate import half_interval

HEADS = (
    "model",
    "judged on",
    "how",
    "models of MetaICL, draws",
    "accuracy, mean",
    "worst draw",
    "MetaICL is better by",
    "than of each model",
    "CPU minutes",
)


@dataclass(frozen=True)
class Key:
    """What rows have in common that differ in trained weights and draws alone."""

    model: str
    task: str
    renamed: bool
    method: str
    how: str


@dataclass
class Pool:
    """Rows of one key, by the seed of MetaICL's weights: accuracies, what MetaICL gains on the same draws, CPU time."""

    accuracies: dict[int, list[float]] = field(default_factory=dict)
    gains: dict[int, list[float]] = field(default_factory=dict)
    cpu_seconds: dict[int, float] = field(default_factory=dict)


def table() -> str:
    """For the docs."""
    rows = read("meta_icl")
    found = pooled(rows)
    keys = sorted(found, key=lambda key: (key.model, key.task, key.renamed, key.method, WAYS.index(key.how)))
    return markdown(HEADS, (_cells(key, found[key]) for key in keys), " ".join([*_means(found), *_told(rows)]))


def pooled(rows: list[dict[str, Any]]) -> dict[Key, Pool]:
    """Rows by what they have in common."""
    metaicl = {_draws(row): row["accuracies"] for row in rows if row["how"] == "MetaICL"}
    found: dict[Key, Pool] = {}
    for row in rows:
        pool = found.setdefault(Key(*(row[name.name] for name in fields(Key))), Pool())
        gains = [a - b for a, b in zip(metaicl[_draws(row)], row["accuracies"], strict=True)]
        pool.accuracies.setdefault(row["seed"], []).extend(row["accuracies"])
        pool.gains.setdefault(row["seed"], []).extend(gains)
        pool.cpu_seconds[row["seed"]] = row["cpu_seconds"]
    return found


def mean_of_models(by_seed: dict[int, list[float]]) -> tuple[float, float]:
    """The mean over models of the mean over draws, and half its 95% interval over draws, given these models."""
    means = [fmean(each) for each in by_seed.values()]
    halves = [half_interval(torch.tensor(each)) for each in by_seed.values()]
    return fmean(means), sum(half**2 for half in halves) ** 0.5 / len(halves)


def _draws(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("model", "task", "renamed", "method", "seed", "first", "items"))


def _percent(found: tuple[float, float]) -> str:
    return f"{100 * found[0]:.1f} ± {100 * found[1]:.1f}"


def _cells(key: Key, pool: Pool) -> list[str]:
    itself = key.how == "MetaICL"
    return [
        key.model,
        key.task.removesuffix("-test") + ", renamed" * key.renamed,
        key.how,
        f"{len(pool.gains)}, {sum(map(len, pool.gains.values()))}",
        _percent(mean_of_models(pool.accuracies)),
        f"{100 * min(min(each) for each in pool.accuracies.values()):.1f}",
        "" if itself else _percent(mean_of_models(pool.gains)),
        "" if itself else ", ".join(f"{100 * fmean(each):.1f}" for each in pool.gains.values()),
        f"{fmean(pool.cpu_seconds.values()) / 60:.0f}",
    ]


def _means(found: dict[Key, Pool]) -> Iterator[str]:
    """What MetaICL gains on the mean of the sets with their own names, where a model was judged on several."""
    for model in sorted({key.model for key in found}):
        for how in ("zero-shot", "in-context"):
            of = [
                mean_of_models(pool.gains)
                for key, pool in found.items()
                if (key.model, key.how, key.renamed) == (model, how, False)
            ]
            if len(of) > 1:
                whole = fmean(mean for mean, _ in of), sum(half**2 for _, half in of) ** 0.5 / len(of)
                sets = f"Mean of {len(of)} sets with their own names"
                yield f"{sets}: {model}'s MetaICL is better than {how} by {_percent(whole)}."


def _told(rows: list[dict[str, Any]]) -> Iterator[str]:
    """How models were trained and judged, once each."""
    for model in dict.fromkeys(row["model"] for row in rows):
        of = [row for row in rows if row["model"] == model]
        config, commits = of[0]["config"], sorted({row["computed_at"] for row in of})
        yield (
            f"{model}: {config['steps']:,} steps, {of[0]['method']}, {config['way']} options of 20 intents, or of 6 "
            f"kinds of question, never trained on, {config['shot']} demonstrations of each, commits "
            f"{', '.join(commits)}."
        )
    yield (
        "Percent; means over models of means over draws, 95% intervals over draws, given these models; CPU minutes are "
        f"of training a model. {rows[0]['machine']}."
    )

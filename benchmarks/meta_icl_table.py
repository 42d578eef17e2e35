"""The table of `benchmarks.meta_icl`: what MetaICL gains, over trained models and draws."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import Any

import torch

from benchmarks.meta_icl import WAYS
from benchmarks.record import markdown, read
from l2o.training.evaluate import half_interval

Key = tuple[str, str, bool, str]
"""Model, task, whether options were renamed, and way to train and judge."""

Pool = dict[Key, list[tuple[dict[str, Any], list[float]]]]
"""Rows that differ in trained weights and draws alone, each with what MetaICL gains on its draws."""

HEADS = (
    "model",
    "judged on",
    "how",
    "trained models, draws",
    "accuracy, mean",
    "worst draw",
    "MetaICL is better by",
    "of each model",
    "CPU minutes",
)


def table() -> str:
    """For the docs."""
    rows = read("meta_icl")
    found = pooled(rows)
    keys = sorted(found, key=lambda key: (*key[:3], WAYS.index(key[3])))
    return markdown(HEADS, (_cells(key, found) for key in keys), " ".join([*_means(found), *_told(rows)]))


def pooled(rows: list[dict[str, Any]]) -> Pool:
    """Rows by what they have in common."""
    metaicl = {_draws(row): row["accuracies"] for row in rows if row["how"] == "MetaICL"}
    found: Pool = {}
    for row in rows:
        gains = [a - b for a, b in zip(metaicl[_draws(row)], row["accuracies"], strict=True)]
        found.setdefault((row["model"], row["task"], _renamed(row), row["how"]), []).append((row, gains))
    return found


def _draws(row: dict[str, Any]) -> tuple[Any, ...]:
    return *(row[key] for key in ("model", "task", "method", "seed", "first", "items")), _renamed(row)


def _renamed(row: dict[str, Any]) -> bool:
    return bool(row.get("renamed", False))  # older rows have options with their own names only


def _cells(key: Key, found: Pool) -> list[str]:
    model, task, renamed, how = key
    rows, gains = [row for row, _ in found[key]], [gain for _, each in found[key] for gain in each]
    accuracies = torch.tensor([accuracy for row in rows for accuracy in row["accuracies"]])
    seeds = sorted({row["seed"] for row in rows})
    better, of_each = "", ""
    if how != "MetaICL":
        better = f"{100 * fmean(gains):.1f} ± {100 * half_interval(torch.tensor(gains)):.1f}"
        each = [[gain for row, of in found[key] for gain in of if row["seed"] == seed] for seed in seeds]
        of_each = ", ".join(f"{100 * fmean(of):.1f}" for of in each)
    return [
        model,
        task.removesuffix("-test") + (", renamed" if renamed else ""),
        how,
        f"{len(seeds)}, {len(gains)}",
        f"{100 * float(accuracies.mean()):.1f}% ± {100 * half_interval(accuracies):.1f}",
        f"{100 * float(accuracies.min()):.1f}%",
        better,
        of_each,
        f"{fmean(row['cpu_seconds'] for row in rows) / 60:.0f}",
    ]


def _means(found: Pool) -> Iterator[str]:
    """What MetaICL gains on the mean of the sets with their own names, where a model was judged on several."""
    for model in sorted({key[0] for key in found}):
        for how in ("zero-shot", "in-context"):
            of = [
                torch.tensor([gain for _, gains in found[key] for gain in gains])
                for key in found
                if key == (model, key[1], False, how)
            ]
            if len(of) > 1:
                mean = fmean(float(gains.mean()) for gains in of)
                half = sum(half_interval(gains) ** 2 for gains in of) ** 0.5 / len(of)
                yield (
                    f"Mean of the {len(of)} sets with their own names: {model}'s MetaICL is better than {how} by "
                    f"{100 * mean:.1f} ± {100 * half:.1f}."
                )


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
    yield f"95% intervals over draws; CPU minutes are of training, a model. {rows[0]['machine']}."

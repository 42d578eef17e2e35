"""What came out of the comparison: rows for a file, aggregates over problems, a table for the README."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.optimizers.measures import (
    NOT_REACHED,
    diverged,
    final,
    geometric_mean,
    holds,
    interval,
    median_steps_to,
    step_ratio,
    value_ratio,
)
from benchmarks.optimizers.methods import BASELINES, rate
from benchmarks.optimizers.sweep import Result
from benchmarks.record import line, read
from l2o.training.report import plain

Row = dict[str, Any]

REFERENCES = ("adamw", "muon")
"""Tuned baselines that all methods are measured against."""

TITLES = {name: method.name for name, method in BASELINES.items()} | {"ours": "l2o", "ours-tuned": "l2o, tuned"}


def rows(results: Sequence[Result]) -> list[Row]:
    """A row for each problem and method, then one for each method and reference, over all problems that have both."""
    single = [plain(_row(result, results)) for result in results]
    methods = dict.fromkeys(result.method for result in results)
    together = [aggregate(single, method, reference) for method in methods for reference in REFERENCES]
    return [*single, *(row for row in together if row)]


def _row(result: Result, results: Sequence[Result]) -> Row:
    ends = final(result.losses)
    row = {
        "kind": "problem",
        "problem": result.problem,
        "method": result.method,
        "parameters": result.num_parameters,
        "steps": result.losses.shape[-1],
        "seeds": len(result.losses),
        "rate": rate(result.half_decades),
        "swept": {rate(k): score for k, score in result.swept.items()},
        "train": float(ends.mean()),
        "train_by_seed": [plain(end) for end in ends.tolist()],
        "validation": float(result.validation[:, -1].mean()),
        "validation_best": float(result.validation.min(axis=1).mean()),
        "diverged": int(diverged(result.losses).sum()),
        "model_ms": result.model_ms,
        "optimizer_ms": result.optimizer_ms,
    }
    for name in REFERENCES:
        reference = next((r for r in results if (r.problem, r.method) == (result.problem, name)), None)
        if reference is not None:
            row |= {f"{key}_{name}": value for key, value in against(result, reference).items()}
    return row


def against(result: Result, reference: Result) -> Row:
    """A method against a tuned baseline on one problem; ratios below 1 are better, a baseline is 1 by itself.

    The target is the baseline's final loss, a mean over its seeds that stayed finite; without one nothing holds.
    """
    ends, ours = final(reference.losses), final(result.losses)
    finite = np.isfinite(ends)
    target = float(ends[finite].mean()) if finite.any() else math.nan
    other = float(reference.validation[finite, -1].mean()) if finite.any() else math.nan
    reached, own = (median_steps_to(losses, target) for losses in (result.losses, reference.losses))
    mean, validation = float(ours.mean()), float(result.validation[:, -1].mean())
    row: Row = {
        "steps_to": reached,
        "step_ratio": step_ratio(reached, min(own, reference.losses.shape[-1])),
        "train_ratio": value_ratio(mean, target),
        "validation_ratio": value_ratio(validation, other),
        "train_holds": bool(holds(mean, target)),
        "validation_holds": bool(holds(validation, other)),
    }
    if result.half is not None:
        row["half_holds"] = bool(holds(float(final(result.half).mean()), target))
    return row


def aggregate(single: Sequence[Row], method: str, reference: str) -> Row | None:
    """A method against a tuned baseline over all problems that both were run on."""
    of = [row for row in single if row["method"] == method and f"step_ratio_{reference}" in row]
    if not of:
        return None
    ratios = [row[f"step_ratio_{reference}"] for row in of]
    row: Row = {
        "kind": "aggregate",
        "method": method,
        "reference": reference,
        "problems": len(of),
        "step_ratio": geometric_mean(ratios),
        "step_ratio_interval": interval(ratios),
        "reached": sum(row[f"steps_to_{reference}"] is not None for row in of) / len(of),
        "not_reached_counts_as": NOT_REACHED,
        "diverged": sum(row["diverged"] for row in of),
        "runs": sum(row["seeds"] for row in of),
    }
    for key in ("train", "validation"):
        found = [value for row in of if (value := row[f"{key}_ratio_{reference}"]) is not None]
        row[f"{key}_ratio"] = geometric_mean(found) if found else None
        row[f"{key}_ratio_problems"] = len(found)  # of the others, losses and scores do not compare
        row[f"{key}_share"] = sum(row[f"{key}_holds_{reference}"] for row in of) / len(of)
    if all(f"half_holds_{reference}" in row for row in of):
        row["half_share"] = sum(row[f"half_holds_{reference}"] for row in of) / len(of)
    return row


def table(found: Sequence[Row] | None = None) -> str:
    """All methods over all problems, then step ratios problem by problem; from committed rows if none are given."""
    found = read("optimizers") if found is None else found
    return "\n".join([*_together(found), "", *_single(found), "", _told(found)])


def _together(found: Sequence[Row]) -> Iterator[str]:
    heads = ["optimizer", "steps to the loss of tuned AdamW, ratio [95%]", "at or below it in training, validation"]
    heads += ["with half the steps", "steps to the loss of tuned Muon, ratio [95%]", "at or below it", "diverged"]
    yield line(heads)
    yield line(["---"] * len(heads))
    of = {(row["method"], row["reference"]): row for row in found if row["kind"] == "aggregate"}
    for method in dict.fromkeys(method for method, _ in of):
        one, other = (of.get((method, reference)) for reference in REFERENCES)
        some = one or other
        assert some is not None
        half = f"{one['half_share']:.0%}" if one and "half_share" in one else ""
        cells = [TITLES[method], _ratio(one), _shares(one), half, _ratio(other), _shares(other)]
        yield line([*cells, f"{some['diverged']} of {some['runs']}"])


def _single(found: Sequence[Row]) -> Iterator[str]:
    single = {(row["problem"], row["method"]): row for row in found if row["kind"] == "problem"}
    methods = dict.fromkeys(method for _, method in single)
    yield line(["problem", "parameters", *(TITLES[method] for method in methods), "ms of model, AdamW, l2o"])
    yield line(["---"] * (len(methods) + 3))
    for problem in dict.fromkeys(problem for problem, _ in single):
        of = {method: single[problem, method] for method in methods if (problem, method) in single}
        first = next(iter(of.values()))
        times = [first["model_ms"], *(of[m]["optimizer_ms"] for m in ("adamw", "ours") if m in of)]
        cells = [_cell(of[method]) if method in of else "" for method in methods]
        yield line([problem, f"{first['parameters']:,}", *cells, ", ".join(f"{ms:.1f}" for ms in times)])


def _cell(row: Row) -> str:
    """Final training loss, and in brackets the share of AdamW's steps that reach AdamW's."""
    loss = "diverges" if row["train"] is None else f"{row['train']:.4g}"
    if "step_ratio_adamw" not in row:
        return loss
    return f"{loss} ({row['step_ratio_adamw']:.2f})" if row["steps_to_adamw"] is not None else f"{loss} (-)"


def _ratio(row: Row | None) -> str:
    if row is None:
        return ""
    low, high = row["step_ratio_interval"]
    return f"{row['step_ratio']:.2f} [{low:.2f}, {high:.2f}] of {row['problems']}"


def _shares(row: Row | None) -> str:
    return f"{row['train_share']:.0%}, {row['validation_share']:.0%}" if row else ""


def _told(found: Sequence[Row]) -> str:
    first = next(row for row in found if row["kind"] == "problem")
    single = {(row["problem"], row["method"]) for row in found if row["kind"] == "problem"}
    num, methods = len({problem for problem, _ in single}), {method for _, method in single}
    absent = [f"{TITLES[m]} on {p}" for p in {p for p, _ in single} for m in methods if (p, m) not in single]
    left_out = f" Left out, because too slow here: {', '.join(sorted(absent))}." if absent else ""
    config = first["config"]
    return (
        f"{num} problems that no optimizer here was meta-trained on, {first['seeds']} seeds. Ratio: median steps over "
        "seeds until the smoothed training loss is at or below the final one of the tuned baseline, over those that "
        f"this takes to it; where it never is, {NOT_REACHED:g}; geometric mean over so many problems, interval by "
        "bootstrap over them. Tuned: learning rate by half decades, wider where the best was at an edge, on "
        f"{config['sweep_seeds']} other seed(s), chosen by final training loss; linear rise over 5%, then a cosine "
        "(Schedule-Free: as its authors do). Weight decay 0.01 but for SGD and l2o. l2o: as it is; tuned: its step "
        "times the best of the same sweep. Below: final training loss (mean of the last 5% of steps), in brackets the "
        f"ratio to AdamW, - if never.{left_out} {config['threads']} thread of {first['machine']}, commit "
        f"{first['commit']}."
    )

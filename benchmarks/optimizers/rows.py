"""Rows of the comparison: each tells of one method on one problem all that others can be measured against later."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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
    thinned,
    value_ratio,
)
from benchmarks.optimizers.methods import half_decades, rate
from benchmarks.optimizers.sweep import Result
from l2o.training.report import plain

Row = dict[str, Any]

REFERENCES = ("adamw", "muon")
"""Tuned baselines that all methods are measured against."""


def row(result: Result) -> Row:
    """A method on a problem, by itself; losses that are not finite are None."""
    steps, curves = thinned(result.losses)
    found = {
        "kind": "problem",
        "problem": result.problem,
        "method": result.method,
        "parameters": result.num_parameters,
        "steps": result.losses.shape[-1],
        "seeds": len(result.losses),
        "rate": rate(result.half_decades),
        "swept": {rate(k): score for k, score in result.swept.items()},
        "train": float(final(result.losses).mean()),
        "train_by_seed": _numbers(final(result.losses)),
        "validation": float(result.validation[:, -1].mean()),
        "validation_by_seed": _numbers(result.validation[:, -1]),
        "validation_best": float(result.validation.min(axis=1).mean()),
        "diverged": int(diverged(result.losses).sum()),
        "model_ms": result.model_ms,
        "optimizer_ms": result.optimizer_ms,
        "made_on": list(result.machines),
        "own_steps": _own_steps(result),
        "curve_steps": steps.tolist(),
        "curves": [_numbers(curve) for curve in curves],
    }
    if result.half is not None:
        found["half_by_seed"] = _numbers(final(result.half))
    return plain(found)


def _own_steps(result: Result) -> float:
    """Steps to the method's own final loss, a mean over its seeds that stayed finite."""
    ends = final(result.losses)
    finite = ends[np.isfinite(ends)]
    reached = median_steps_to(*thinned(result.losses), float(finite.mean())) if len(finite) else math.inf
    return min(reached, result.losses.shape[-1])


def _numbers(values: np.ndarray) -> list[float | None]:
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values.tolist()]


def _array(values: Sequence[Any]) -> np.ndarray:
    return np.array(values, dtype=np.float64)  # None becomes nan


def swept(found: Iterable[Row]) -> dict[tuple[str, str], dict[int, float]]:
    """The sweeps that rows tell of, by problem and method."""
    return {
        (one["problem"], one["method"]): {
            half_decades(float(k)): math.inf if x is None else x for k, x in one["swept"].items()
        }
        for one in found
        if one["kind"] == "problem" and one["swept"]
    }


def merged(new: Iterable[Row], old: Iterable[Row]) -> list[Row]:
    """New rows in the place of old ones of the same problem and method; problems and methods in their first order."""
    by_pair = {(one["problem"], one["method"]): one for one in old if one["kind"] == "problem"}
    by_pair |= {(one["problem"], one["method"]): one for one in new}
    problems = list(dict.fromkeys(problem for problem, _ in by_pair))
    return [one for name in problems for (problem, _), one in by_pair.items() if problem == name]


def compared(single: Sequence[Row]) -> list[Row]:
    """The rows with ratios to the references, then a row for each method and reference over all problems with both.

    Rows from before curves were kept stay as they are.
    """
    by_pair = {(one["problem"], one["method"]): one for one in single}
    found = []
    for one in single:
        references = {name: by_pair.get((one["problem"], name)) for name in REFERENCES} if "curves" in one else {}
        ratios = {name: against(one, other) for name, other in references.items() if other is not None}
        found.append(one | plain({f"{k}_{name}": v for name, of in ratios.items() for k, v in of.items()}))
    methods = dict.fromkeys(one["method"] for one in single)
    together = [aggregate(found, method, reference) for method in methods for reference in REFERENCES]
    return [*found, *(one for one in together if one)]


def against(one: Row, reference: Row) -> Row:
    """A method against a tuned baseline on one problem; ratios below 1 are better, a baseline is 1 by itself.

    The target is the baseline's final loss, a mean over its seeds that stayed finite; without one nothing holds.
    """
    ends = _array(reference["train_by_seed"])
    finite = np.isfinite(ends)
    target = float(ends[finite].mean()) if finite.any() else math.nan
    other = float(_array(reference["validation_by_seed"])[finite].mean()) if finite.any() else math.nan
    reached = median_steps_to(_array(one["curve_steps"]), _array(one["curves"]), target)
    mean, validation = (math.inf if one[key] is None else one[key] for key in ("train", "validation"))
    found: Row = {
        "steps_to": reached,
        "step_ratio": step_ratio(reached, reference["own_steps"]),
        "train_ratio": value_ratio(mean, target),
        "validation_ratio": value_ratio(validation, other),
        "train_holds": bool(holds(mean, target)),
        "validation_holds": bool(holds(validation, other)),
    }
    if "half_by_seed" in one:
        found["half_holds"] = bool(holds(float(_array(one["half_by_seed"]).mean()), target))
    return found


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

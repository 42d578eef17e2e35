"""Does a learned optimizer hold where it was not meant to go? Each case against AdamW at 1e-3, both untuned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.optimizers.measures import diverged, final, value_ratio
from benchmarks.optimizers.methods import Method
from benchmarks.optimizers.problem import Problem, check_names
from benchmarks.optimizers.problems import PROBLEMS
from benchmarks.optimizers.sweep import Store, shortened
from benchmarks.optimizers.train import Run, device_name
from benchmarks.record import markdown, read
from l2o.training.report import plain

REFERENCE = "adamw-1e-3"


@dataclass(frozen=True)
class Case:
    """A problem made hard.

    Arguments:
        problem: with the number of its steps.
        options: of `Run`.
        weight_decay: None for each method's own.
    """

    problem: Problem
    options: dict[str, Any]
    weight_decay: float | None = None


def _case(name: str, steps: int, weight_decay: float | None = None, fields: Any = None, **options: Any) -> Case:
    return Case(replace(PROBLEMS[name], steps=steps, **(fields or {})), options, weight_decay)


CASES = {
    "ten times the horizon": _case("tabular", 20_000),
    "12 million parameters": _case("wide-mlp", 300, fields={"width": 2304}),
    "batches of 8": _case("convnet", 2000, fields={"batch_size": 8}),
    "batches of 4096": _case("autoencoder", 300, fields={"batch_size": 4096}),
    "bfloat16 parameters": _case("autoencoder", 1000, dtype="bfloat16"),
    "weight decay 0.1": _case("lstm", 1000, weight_decay=0.1),
    "four batches a step": _case("skip-gram", 1000, accumulate=4),
    "autocast to bfloat16": _case("vit", 500, autocast=True),
}


def chosen(names: tuple[str, ...], steps: int | None = None) -> dict[str, Case]:
    """Cases by name, all if none is named, and all of so many steps.

    Raises:
        ValueError: there is no case of such a name.
    """
    check_names("cases", names, CASES)
    cases = {name: CASES[name] for name in names or CASES}
    problems = shortened({name: case.problem for name, case in cases.items()}, steps)
    return {name: replace(case, problem=problems[name]) for name, case in cases.items()}


def stress(
    methods: dict[str, Method], store: Store, cases: dict[str, Case], device: str = "cpu"
) -> Iterator[dict[str, Any]]:
    """One row a case and method, of which one is the reference."""
    where = device_name(device)
    for name, case in cases.items():
        curves = {key: store.get(_run(case, method, device)) for key, method in methods.items()}
        reference = float(final(curves[REFERENCE].losses))
        for key, curve in curves.items():
            end = float(final(curve.losses))
            row = {
                "case": name,
                "method": key,
                "device": where,
                "made_on": sorted(store.machines[type(case.problem).__name__, methods[key].name]),
                "parameters": curve.num_parameters,
                "steps": case.problem.steps,
                "first": float(curve.losses[0]),
                "final": end,
                "validation": float(curve.validation[-1]),
                "finite": bool(np.isfinite(curve.losses).all()),
                "fell": not bool(diverged(curve.losses)),
                "ratio": value_ratio(end, reference),
                "model_ms": curve.model_ms,
                "optimizer_ms": curve.optimizer_ms,
            }
            yield {key: plain(value) for key, value in row.items()}


def _run(case: Case, method: Method, device: str) -> Run:
    if case.weight_decay is not None:
        method = replace(method, weight_decay=case.weight_decay)
    return Run(case.problem, method, method.fixed, 0, case.problem.steps, device=device, **case.options)


def table() -> str:
    """The recorded cases in Markdown, each a line."""
    rows, lines = read("optimizers_stress"), []
    for name in [name for name in CASES if any(row["case"] == name for row in rows)]:
        of = {row["method"]: row for row in rows if row["case"] == name}
        ours, reference = of["ours"], of[REFERENCE]
        cells = [name, f"{ours['parameters']:,}", f"{ours['steps']:,}", f"{ours['first']:.3g}"]
        cells += [f"{one['final']:.3g}" if one["finite"] else "diverges" for one in (reference, ours)]
        lines.append([*cells, f"{ours['ratio']:.2f}", ours["device"].replace("cpu", "CPU")])
    heads = ["case", "parameters", "steps", "loss at first", "AdamW 1e-3, at the end", "l2o", "ratio", "computed on"]
    commits = dict.fromkeys(row["commit"] for row in rows)
    places = dict.fromkeys(place for row in rows for place in row["made_on"])
    caption = (
        "Training loss, mean of the last 5% of steps, one seed, both untuned. CPU: one thread. Machines: "
        f"{'; '.join(places)}; commits {', '.join(commits)}."
    )
    return markdown(heads, lines, caption)


def shown(rows: list[dict[str, Any]]) -> Table:
    """The rows on a screen."""
    found = Table("case", "optimizer", "first loss", "final", "of AdamW 1e-3's", "finite", "fell", title="Stress")
    for row in rows:
        numbers = ["-" if row[key] is None else f"{row[key]:.4g}" for key in ("first", "final", "ratio")]
        found.add_row(row["case"], row["method"], *numbers, str(row["finite"]), str(row["fell"]))
    return found

"""What came out of the comparison, as a table; all of it from rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.optimizers.measures import NOT_REACHED
from benchmarks.optimizers.methods import BASELINES, OURS, rate
from benchmarks.optimizers.rows import REFERENCES, Row, swept
from benchmarks.record import commits, markdown, read

TITLES = {name: method.name for name, method in BASELINES.items()} | {"ours": "l2o", "ours-tuned": "l2o, tuned"}


def table(found: Sequence[Row] | None = None) -> str:
    """All methods over all problems, at their best rates and at one for all; then problem by problem.

    From committed rows if none are given.
    """
    found = read("optimizers") if found is None else found
    return "\n\n".join(filter(None, [_together(found), _at_one_rate(found), _single(found)]))


def _together(found: Sequence[Row]) -> str:
    heads = ["optimizer", "steps to the loss of tuned AdamW, ratio [95%]", "at or below it in training, validation"]
    heads += ["with half the steps", "steps to the loss of tuned Muon, ratio [95%]", "at or below it", "diverged"]
    lines = []
    of = {(row["method"], row["reference"]): row for row in found if row["kind"] == "aggregate"}
    for method in dict.fromkeys(method for method, _ in of):
        one, other = (of.get((method, reference)) for reference in REFERENCES)
        some = one or other
        assert some is not None
        half = f"{one['half_share']:.0%}" if one and "half_share" in one else ""
        cells = [TITLES[method], _ratio(one), _shares(one), half, _ratio(other), _shares(other)]
        lines.append([*cells, f"{some['diverged']} of {some['runs']}"])
    return markdown(heads, lines)


def _at_one_rate(found: Sequence[Row]) -> str:
    """On how many problems a baseline that nobody tunes would end below l2o; empty where one of them is missing."""
    rows = [row for row in found if row["kind"] == "problem" and row["method"] == "ours"]
    ours = {row["problem"]: math.inf if row["train"] is None else row["train"] for row in rows}
    tried = {
        (method, problem): losses
        for (problem, method), losses in swept(found).items()
        if problem in ours and method not in OURS
    }
    below: dict[str, dict[int, str]] = {}
    for method in dict.fromkeys(method for method, _ in tried):
        of = {problem: each for (name, problem), each in tried.items() if name == method}
        everywhere = set.intersection(*(set(each) for each in of.values()))
        counts = {k: sum(each[k] < ours[problem] for problem, each in of.items()) for k in everywhere}
        below[method] = {k: f"{count} of {len(of)}" for k, count in counts.items()}
    rates = sorted({k for cells in below.values() for k in cells})
    lines = [[TITLES[method], *(cells.get(k, "") for k in rates)] for method, cells in below.items()]
    heads = ["one rate for all problems: ends below l2o on", *(f"{rate(k):g}" for k in rates)]
    return markdown(heads, lines) if rates else ""


def _single(found: Sequence[Row]) -> str:
    single = {(row["problem"], row["method"]): row for row in found if row["kind"] == "problem"}
    methods = dict.fromkeys(method for _, method in single)
    heads = ["problem", "parameters", *(TITLES[method] for method in methods), "CPU ms of model, AdamW, l2o"]
    lines = []
    for problem in dict.fromkeys(problem for problem, _ in single):
        of = {method: single[problem, method] for method in methods if (problem, method) in single}
        first = next(iter(of.values()))
        times = [first["model_ms"], *(of[m]["optimizer_ms"] for m in ("adamw", "ours") if m in of)]
        cells = [_cell(of[method]) if method in of else "" for method in methods]
        lines.append([problem, f"{first['parameters']:,}", *cells, ", ".join(f"{ms:.1f}" for ms in times)])
    return markdown(heads, lines, _told(found))


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
    left_out = f" Left out: {', '.join(sorted(absent))}." if absent else ""
    config = first["config"]
    places = {
        (row["method"], place)
        for row in found
        for place in row.get("made_on", ())
        if not place.startswith(first["machine"])
    }
    elsewhere = "".join(f" ({TITLES[method]} also on {place})" for method, place in sorted(places))
    return (
        f"{num} problems that no optimizer here was meta-trained on, {first['seeds']} seeds. Ratio: median steps over "
        "seeds until the smoothed training loss is at or below the final one of the tuned baseline, over those that "
        f"this takes to it; where it never is, {NOT_REACHED:g}; geometric mean over so many problems, interval by "
        "bootstrap over them. Tuned: learning rate by half decades, wider where the best was at an edge, on "
        f"{config['sweep_seeds']} other seed(s), chosen by final training loss; linear rise over 5%, then a cosine "
        "(Schedule-Free: as its authors do). Weight decay 0.01 but for SGD and l2o. l2o: as it is; tuned: its step "
        "times the best of the same sweep. Below: final training loss (mean of the last 5% of steps), in brackets the "
        f"ratio to AdamW, - if never.{left_out} {config['threads']} thread of {first['machine']}{elsewhere}, "
        f"commits {commits(found)}."
    )

"""The table and picture of speed, from the committed rows of meta_throughput and step_time.

python -m benchmarks.speed        # draws benchmarks/results/speed.png; `python -m benchmarks.readme` writes the table
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.estimates import TITLES
from benchmarks.record import RESULTS, markdown, read, readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, Any]

SIZE = 10_000_000
"""Parameters whose step the table and the picture show."""

SHOWN = {
    "l2o matrix": "matrix rule (30 features, 8-8-1)",
    "l2o mlp": "MLP rule (28 + 11 features, 4-4-2)",
    "l2o velo": "VeLO rule (LSTM of 64, bank of 32)",
}
"""Rules of ours in the table of steps."""


def table() -> str:
    """What an inner step and an optimizer's step cost, ours and others', in one run each, and the least they could."""
    throughput, steps = read("meta_throughput"), read("step_time")
    lines = []
    for setting in TITLES:
        for num in sorted({row["num_tasks"] for row in throughput if row["setting"] == setting}):
            group = [row for row in throughput if (row["setting"], row["num_tasks"]) == (setting, num)]
            title = f"meta-training, {TITLES[setting]}, {num} tasks: wall µs an inner step"
            lines.append(_cells(title, group, "system", "wall_microseconds_per_inner_step"))
    for tensors in (1, 200):
        group = [row for row in steps if row["tensors"] == tensors and _near(row["size"])]
        for name, title in SHOWN.items():
            ours = [row for row in group if row["optimizer"] == name]
            others = [row for row in group if _compares(row, ours)]
            if ours:
                where = f"10M parameters in {tensors} tensor{'s' * (tensors > 1)}: CPU ns each"
                lines.append(_cells(f"step of the {title}, {where}", ours + others, "optimizer", "cpu_ns"))
    first, step = throughput[0], steps[0]
    caption = (
        f"Medians of alternating repeats. Meta-training: 64-32-10 perceptrons, batch 64, {first['config']['threads']} "
        "threads; of ours the faster of eager and compiled, learned_optimization jitted 10 steps at a time, higher and "
        "TorchOpt a task at a time, as they do; CPU time has waiting threads in it. First call of our compiled step: "
        f"{_first(throughput)}. "
        f"Steps: {step['config']['threads']} thread, through `LearnedOptimizer`. The floor is the operations over one "
        "core's measured rate of multiply-adds or the bytes over its measured bandwidth, whichever takes longer. "
        f"{first['machine']}, commits {first['commit']} and {step['commit']}."
    )
    return markdown(["what", "l2o", "others, and how many times ours", "l2o's CPU time / floor"], lines, caption)


def _near(size: int) -> bool:
    return abs(size - SIZE) < 0.01 * SIZE


def _compares(row: Row, ours: Sequence[Row]) -> bool:
    """Whether an optimizer of others computes the same kind of step, or is AdamW."""
    if row["optimizer"].startswith("torch AdamW"):
        return True
    return bool(ours) and row["like"] == ours[0]["like"] and not row["optimizer"].startswith("l2o")


def _cells(title: str, rows: Sequence[Row], name: str, key: str) -> list[str]:
    """Our fastest, then the others with how many times ours they take, then how far ours is from the floor."""
    ours = min((row for row in rows if row[name].startswith("l2o")), key=lambda row: row[key])
    told = []
    for row in rows:
        if not row[name].startswith("l2o"):
            ratio = f"{readable(row[key] / ours[key])}x"
            if key.startswith("wall"):
                clock = "cpu_microseconds_per_inner_step"
                ratio += f", CPU time {readable(row[clock] / ours[clock])}x"
            told.append(f"{row[name]} {readable(row[key])} ({ratio})")
    return [title, f"**{readable(ours[key])}**", "; ".join(told) or "-", f"{readable(ours['cpu_over_floor'])}x"]


def _first(rows: Sequence[Row]) -> str:
    told = [
        f"{row['first_call_cold_seconds']:.0f} s with empty caches, {row['first_call_warm_seconds']:.1f} s with those "
        f"of an earlier run ({TITLES[row['setting']]}, {row['num_tasks']} tasks)"
        for row in rows
        if row["system"] == "l2o compiled" and "first_call_cold_seconds" in row and row["num_tasks"] == 16
    ]
    return "; ".join(told) or "not measured"


def picture() -> None:
    """Two panels of bars on a logarithmic scale: meta-training and the optimizer's step."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5.5), layout="constrained")
    throughput = [row for row in read("meta_throughput") if row["num_tasks"] == 16]
    label = {row["setting"]: f"{TITLES[row['setting']]}: " for row in throughput}
    _bars(
        left,
        throughput,
        lambda row: label[row["setting"]] + row["system"],
        "wall_microseconds_per_inner_step",
        "floor_microseconds",
    )
    left.set(title="meta-training, 16 tasks", xlabel="wall µs an inner step (2 cores)")
    steps = [row for row in read("step_time") if row["tensors"] == 1 and _near(row["size"])]
    _bars(right, steps, lambda row: row["optimizer"], "cpu_ns", "floor_ns")
    right.set(title="optimizer step, 10M parameters in one tensor", xlabel="CPU ns a parameter (1 thread)")
    figure.savefig(RESULTS / "speed.png", dpi=130)


def _bars(panel: Axes, rows: Sequence[Row], name: Callable[[Row], str], key: str, floor: str) -> None:
    for place, row in enumerate(rows):
        ours = "l2o" in name(row)
        panel.barh(place, row[key], color="tab:blue" if ours else "lightgrey")
        panel.plot(
            [row[floor]] * 2, [place - 0.4, place + 0.4], color="black", label=None if place else "floor, on one core"
        )
        panel.annotate(readable(row[key]), (row[key], place), xytext=(3, 0), textcoords="offset points", va="center")
    panel.set_yticks(range(len(rows)), [name(row) for row in rows])
    panel.set_xscale("log")
    panel.invert_yaxis()
    panel.margins(x=0.15)
    panel.legend(loc="upper right")


if __name__ == "__main__":
    picture()

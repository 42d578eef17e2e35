"""Tables of the optimizer in the box, from committed rows; a third is in `benchmarks.optimizers`."""

from __future__ import annotations

from typing import Any

from benchmarks import versions
from benchmarks.record import markdown, read

Row = dict[str, Any]


def celo() -> str:
    """How many times fewer steps than the best Adam each takes to that Adam's final loss."""
    rows = read("celo")
    methods = list(dict.fromkeys(row["method"] for row in rows if row["method"] != "Adam"))
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        of = {row["method"]: row for row in rows if row["task"] == task}
        lines.append([task, *(_times(of[method]) for method in methods), f"{of['Adam']['rate']:g}"])
    first = rows[0]
    caption = (
        f"{first['num_steps']:,} over the steps until the smoothed training loss is at or below Adam's final one, mean "
        f"over {first['num_seeds']} seeds [95% interval], 0 where it never is. {_where(rows)}"
    )
    return markdown(["network", *methods, "Adam's rate"], lines, caption)


def history() -> str:
    """Final losses of versions over those of the first, on held-out networks."""
    rows = read("versions")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    scores = versions.scores(rows)
    lines = []
    for part, steps in dict.fromkeys((part, steps) for part, steps, _ in scores):
        ratios = [f"{scores[part, steps, method] / scores[part, steps, methods[0]]:.3f}" for method in methods]
        lines.append([part, f"{steps:,}", *ratios])
    caption = (
        "Final training loss over that of the rule before meta-training, geometric mean over four networks each, "
        f"{rows[0]['num_seeds']} seeds; losses below a hundredth of the first count as that. {_where(rows)}"
    )
    return markdown(["held-out networks", "steps", *methods], lines, caption)


def _times(row: Row) -> str:
    low, high = row["speed_up_Adam_low"], row["speed_up_Adam_high"]
    return f"{row['speed_up_Adam']:.2f} [{low:.2f}, {high:.2f}]"


def _where(rows: list[Row]) -> str:
    commits = list(dict.fromkeys(row["commit"] for row in rows))
    return f"{rows[0]['machine']}, commit{'s' * (len(commits) > 1)} {', '.join(commits)}."

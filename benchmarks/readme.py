"""Writes the README's tables from committed rows, so that no number there is typed by hand.

python -m benchmarks.readme            # rewrite
python -m benchmarks.readme --check    # fail if the README says something else than the rows
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import cluster, in_the_box, learners, speed
from benchmarks.optimizers import report
from benchmarks.record import line, read

README = Path(__file__).parents[1] / "README.md"


def quickstart() -> str:
    """Final training loss of every method on every held-out network, and what the LSTM gains on the best other."""
    rows = read("quickstart")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = [line(["held-out network", *methods, "LSTM's loss / best tuned"]), line(["---"] * (len(methods) + 2))]
    for task in dict.fromkeys(row["task"] for row in rows):
        of_task = {row["method"]: row for row in rows if row["task"] == task}
        tuned = min(of_task[name]["final_loss"] for name in ("SGD", "momentum", "Adam"))
        ratio = of_task["LSTM"]["final_loss"] / tuned
        lines.append(line([task, *(_loss(of_task[name]) for name in methods), f"{ratio:.2f}"]))
    first = rows[0]
    lines += [
        "",
        f"Training loss over the last tenth of {first['num_steps']} steps, mean over {first['num_seeds']} seeds "
        "[95% interval]; in brackets "
        "the rate that was chosen, of 11 from 1e-4 to 10, on these very runs. Validation loss at the end: "
        + "; ".join(f"{name} {_mean(rows, name, 'validation'):.2f}" for name in methods)
        + f" (mean over the networks). Meta-training took {first['meta_train_minutes']:.1f} minutes on "
        f"{first['machine']}, commit {first['commit']}.",
    ]
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {
    "quickstart": quickstart,
    "optimizers": report.table,
    "celo": in_the_box.celo,
    "versions": in_the_box.history,
    "speed": speed.table,
    "few_shot": learners.few_shot,
    "meta_step": learners.meta_step,
    "sinusoid": learners.sinusoid,
    "inner_rule": learners.inner_rule,
    "outer_rule": learners.outer_rule,
    "scaling": cluster.scaling,
    "soak": cluster.soak,
}


def _loss(row: dict[str, Any]) -> str:
    rate = f" ({row['rate']:.3g})" if len(row["swept"]) > 1 else ""
    return f"{row['final_loss']:.3f} [{row['final_low']:.3f}, {row['final_high']:.3f}]{rate}"


def _mean(rows: list[dict[str, Any]], method: str, key: str) -> float:
    values = [row[key] for row in rows if row["method"] == method]
    return sum(values) / len(values)


def rewritten(text: str) -> str:
    """The README with every table made anew."""
    for name, table in TABLES.items():
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, rest = text.split(start)
        _, after = rest.split(end)
        text = f"{before}{start}{table()}\n{end}{after}"
    return text


if __name__ == "__main__":
    old = README.read_text()
    new = rewritten(old)
    if "--check" in sys.argv[1:]:
        sys.exit("README.md does not say what the rows say: python -m benchmarks.readme" if new != old else 0)
    README.write_text(new)

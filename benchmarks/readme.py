"""Writes the tables of the README and the docs from committed rows, so that no number there is typed by hand.

python -m benchmarks.readme            # rewrite
python -m benchmarks.readme --check    # fail if a page says something else than the rows
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    agents_bandits,
    agents_gate,
    agents_loop,
    agents_pbt,
    agents_planning,
    agents_ppo,
    agents_recursion,
    agents_sb3,
    agents_skills,
    agents_tuning,
    claims,
    cluster,
    gpu_step,
    gpu_training,
    icl_cache,
    icl_models,
    in_context,
    in_the_box,
    learner_speed,
    learners,
    meta_icl_table,
    robustness,
    speed,
    tabular_prior,
)
from benchmarks.optimizers import report, stress
from benchmarks.record import markdown, read

ROOT = Path(__file__).parents[1]
TABLE = re.compile(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", re.DOTALL)
"""Where a table stands on a page, and its name."""


def quickstart() -> str:
    """Final training loss of every method on every held-out network, and what the LSTM gains on the best other."""
    rows = read("quickstart")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        of_task = {row["method"]: row for row in rows if row["task"] == task}
        tuned = min(of_task[name]["final_loss"] for name in ("SGD", "momentum", "Adam"))
        ratio = of_task["LSTM"]["final_loss"] / tuned
        lines.append([task, *(_loss(of_task[name]) for name in methods), f"{ratio:.2f}"])
    first = rows[0]
    caption = (
        f"Training loss over the last tenth of {first['num_steps']} steps, mean over {first['num_seeds']} seeds "
        "[95% interval]; in brackets "
        "the rate that was chosen, of 11 from 1e-4 to 10, on these very runs. Validation loss at the end: "
        + "; ".join(f"{name} {_mean(rows, name, 'validation'):.2f}" for name in methods)
        + f" (mean over the networks). Meta-training took {first['meta_train_minutes']:.1f} minutes on "
        f"{first['machine']}, commit {first['commit']}."
    )
    return markdown(["held-out network", *methods, "LSTM's loss / best tuned"], lines, caption)


TABLES: dict[str, Callable[[], str]] = {
    "agents_loop": agents_loop.table,
    "agents_lineage": agents_loop.lineage,
    "agents_gate": agents_gate.table,
    "claims": claims.table,
    "quickstart": quickstart,
    "optimizers": report.table,
    "hard_cases": stress.table,
    "celo": in_the_box.celo,
    "versions": in_the_box.history,
    "speed": speed.table,
    "gpu_step": gpu_step.table,
    "gpu_training": gpu_training.table,
    "few_shot": learners.few_shot,
    "meta_step": learners.meta_step,
    "memory": learners.memory,
    "gaussian_classes": learners.gaussian_classes,
    "gaussian_classes_longer": learners.gaussian_classes_longer,
    "neural_processes": learners.neural_processes,
    "tabular_prior": tabular_prior.table,
    "learner_speed": learner_speed.table,
    "sinusoid": learners.sinusoid,
    "inner_rule": learners.inner_rule,
    "outer_rule": learners.outer_rule,
    "in_context": in_context.table,
    "meta_icl": meta_icl_table.table,
    "icl_models": icl_models.table,
    "icl_cache": icl_cache.table,
    "agents_ppo": agents_ppo.table,
    "agents_sb3": agents_sb3.table,
    "planning": agents_planning.table,
    "pbt": agents_pbt.table,
    "skills": agents_skills.table,
    "bandits": agents_bandits.table,
    "tracking": agents_tuning.tracking,
    "recursion": agents_recursion.table,
    "scaling": cluster.scaling,
    "soak": cluster.soak,
    **robustness.TABLES,
}


def _loss(row: dict[str, Any]) -> str:
    rate = f" ({row['rate']:.3g})" if len(row["swept"]) > 1 else ""
    return f"{row['final_loss']:.3f} [{row['final_low']:.3f}, {row['final_high']:.3f}]{rate}"


def _mean(rows: list[dict[str, Any]], method: str, key: str) -> float:
    values = [row[key] for row in rows if row["method"] == method]
    return sum(values) / len(values)


def pages() -> list[Path]:
    """The README and those pages of the docs that have tables."""
    docs = (path for path in sorted((ROOT / "docs").rglob("*.md")) if "/_" not in str(path.relative_to(ROOT)))
    return [ROOT / "README.md", *(path for path in docs if TABLE.search(path.read_text()))]


def rewritten(text: str) -> str:
    """A page with every table made anew."""
    return TABLE.sub(lambda found: f"<!-- {found[1]} -->\n{_written(found[1])}\n<!-- /{found[1]} -->", text)


def _written(name: str) -> str:
    try:
        return TABLES[name]()
    except FileNotFoundError:  # of the rows
        return "Not measured yet."


if __name__ == "__main__":
    for page in pages():
        old = page.read_text()
        new = rewritten(old)
        if "--check" in sys.argv[1:] and new != old:
            sys.exit(f"{page.relative_to(ROOT)} does not say what the rows say: python -m benchmarks.readme")
        page.write_text(new)

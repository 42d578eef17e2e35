"""Is the recipe of the optimizer in the box any good after five minutes of one core?

    python -m benchmarks.first_minutes --record

Meta-trains by that recipe, but for few steps, then trains held-out networks with the result and with the same rule
before any training, each at every multiplier of its step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.record import keep
from l2o.load import load, recipe_file, save
from l2o.training.config import read_config
from l2o.training.evaluate import Contestant, compare
from l2o.training.report import plain
from l2o.training.run import RunDirectory, meta_train

RATES = tuple(round(10 ** (k / 4), 3) for k in range(-6, 4))


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        recipe: what to shorten.
        outer_steps: of the meta-training.
        num_steps: of a held-out run; the suite's if None.
        num_seeds: runs of each held-out network.
        threads: CPU threads.
        out: folder of the run and rows.
        record: keep the rows in benchmarks/results.
    """

    recipe: str = "default"
    outer_steps: int = 12
    num_steps: int | None = None
    num_seeds: int = 3
    threads: int = 1
    out: Path = Path("runs/first_minutes")
    record: bool = False


def run(config: Config) -> Iterator[dict[str, Any]]:
    """A row for each held-out network and multiplier."""
    recipe = read_config(recipe_file(config.recipe))
    recipe, suite = replace(recipe, steps=config.outer_steps), recipe.suite()
    start = time.process_time()
    meta_train(recipe.build(suite), recipe.steps, RunDirectory(config.out / "run"), save=save, show_progress=False)
    minutes = (time.process_time() - start) / 60
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        fresh = load(recipe.rule, **recipe.rule_args)
    contestants = {"fresh": Contestant(fresh, RATES), "trained": Contestant(load(config.out / "run"), RATES)}
    for name, task in (suite.validation | {f"{key} (test)": one for key, one in suite.test.items()}).items():
        results = compare(contestants, {name: task}, config.num_steps or suite.num_steps, config.num_seeds)
        swept = {result.method: result.swept for result in results}
        for rate in RATES:
            before, after = swept["fresh"][rate], swept["trained"][rate]
            yield {"task": name, "rate": rate, "fresh": plain(before), "trained": plain(after), "cpu_minutes": minutes}


def shown(rows: list[dict[str, Any]]) -> Table:
    """Geometric means over networks of the trained rule's final loss over the fresh one's, for each multiplier."""
    table = Table(
        "step times", "final loss, trained / fresh", "networks where it is no higher", "diverged: fresh, trained"
    )
    for rate in RATES:
        of = [row for row in rows if row["rate"] == rate]
        both = [(row["fresh"], row["trained"]) for row in of if row["fresh"] and row["trained"]]
        ratio = math.exp(sum(math.log(max(b, 1e-4) / max(a, 1e-4)) for a, b in both) / len(both)) if both else math.nan
        level = sum(b <= a for a, b in both)
        gone = [sum(row[key] is None for row in of) for key in ("fresh", "trained")]
        table.add_row(f"{rate:g}", f"{ratio:.3f}", f"{level} of {len(of)}", f"{gone[0]}, {gone[1]}")
    return table


def main(config: Config) -> None:
    """Meta-train, compare, show."""
    torch.set_num_threads(config.threads)
    rows = list(run(config))
    Console().print(shown(rows), f"meta-trained for {rows[0]['cpu_minutes']:.1f} minutes of CPU")
    keep("first_minutes", config, rows)


if __name__ == "__main__":
    main(tyro.cli(Config))

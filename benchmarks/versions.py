"""Which version of the optimizer in the box is the best on held-out networks, and is it better than before training?

    python -m benchmarks.versions --versions learnedmuon default --record

Every version trains the validation networks of its suite for its usual number of steps and for several times as many.
What is shipped is the version with the lowest geometric mean of final losses there; nothing is chosen by test networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.record import keep
from l2o.load import load
from l2o.training import report
from l2o.training.evaluate import Contestant, compare
from l2o.training.suites import load_suite


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        versions: names or paths that `l2o.load` takes; ratios are to the first.
        names: what they are called in the rows; versions themselves if empty.
        suite: whose networks.
        times: lengths of runs, in those of the suite.
        num_seeds: runs of each network.
        threads: CPU threads.
        out: folder of the rows.
        record: keep the rows in benchmarks/results.
    """

    versions: tuple[str, ...] = ("learnedmuon", "default")
    names: tuple[str, ...] = ()
    suite: str = "everyday"
    times: tuple[int, ...] = (1, 4)
    num_seeds: int = 3
    threads: int = 1
    out: Path = Path("runs/versions")
    record: bool = False


def run(config: Config) -> Iterator[dict[str, Any]]:
    """A row for each version, network and length."""
    names = config.names or config.versions
    contestants = {}
    for name, version in zip(names, config.versions, strict=True):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            contestants[name] = Contestant(load(version))
    suite = load_suite(config.suite)
    for part, tasks in (("validation", suite.validation), ("test", suite.test)):
        for times in config.times:
            for task, one in tasks.items():
                results = compare(contestants, {task: one}, times * suite.num_steps, config.num_seeds, seed=2000)
                for result, row in zip(results, report.rows(results), strict=True):
                    yield row | {"part": part, "share_log": report.plain(float(result.log_share.mean()))}


def scores(rows: list[dict[str, Any]]) -> dict[tuple[str, int, str], float]:
    """Geometric mean over networks of final over first loss, by part, length and version; infinite if one diverged."""
    found: dict[tuple[str, int, str], list[float]] = {}
    for row in rows:
        log = math.inf if row["share_log"] is None else row["share_log"]
        found.setdefault((row["part"], row["num_steps"], row["method"]), []).append(log)
    return {key: math.exp(min(700.0, sum(logs) / len(logs))) for key, logs in found.items()}


def shown(rows: list[dict[str, Any]]) -> Table:
    """Scores over those of the first version."""
    found, methods = scores(rows), list(dict.fromkeys(row["method"] for row in rows))
    table = Table("networks", "steps", *methods)
    for part, steps in dict.fromkeys((part, steps) for part, steps, _ in found):
        first = found[part, steps, methods[0]]
        table.add_row(part, str(steps), *(f"{found[part, steps, method] / first:.3f}" for method in methods))
    return table


def main(config: Config) -> None:
    """Compare, show."""
    torch.set_num_threads(config.threads)
    rows = list(run(config))
    Console().print(shown(rows))
    keep("versions", config, rows)


if __name__ == "__main__":
    main(tyro.cli(Config))

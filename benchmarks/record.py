"""Rows of a benchmark: JSON lines that carry config, commit, versions and machine."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from l2o.files import write_atomically

RESULTS = Path(__file__).parent / "results"
"""Rows that the numbers of the README and the docs come from; committed."""


def write(
    name: str, config: Any, rows: Iterable[dict[str, Any]], folder: Path = RESULTS, by: Sequence[str] = ()
) -> Path:
    """Write rows to `folder/name.jsonl`; every row stands alone, with all that can change its numbers.

    Rows that were read from there keep the config, commit and machine that they came from.

    Arguments:
        by: what tells a row from another; rows that are there stay, before these, where none of these is like them,
            and the file is written when all have come. Without it rows are written one by one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl"
    context = {"benchmark": name, "config": _plain(config), "commit": commit(), **machine()}
    made: Iterable[dict[str, Any]] = ({**context, **row} for row in rows)
    if by and path.exists():
        made = list(made)
        new = {tuple(row.get(key) for key in by) for row in made}
        made = [row for row in read(name, folder) if tuple(row.get(key) for key in by) not in new] + made
    if by:
        write_atomically(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in made).encode())
        return path
    with open(path, "w") as file:
        for row in made:
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()
    return path


def keep(name: str, config: Any, rows: Iterable[dict[str, Any]], by: Sequence[str] = ()) -> None:
    """Write rows to the run's folder, `config.out`, and among the committed ones if `config.record`; see `write`."""
    rows = list(rows)
    for folder in [config.out, RESULTS] if config.record else [config.out]:
        write(name, config, rows, folder, by)


def read(name: str, folder: Path = RESULTS) -> list[dict[str, Any]]:
    """The rows that `write` wrote."""
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def commits(rows: Iterable[dict[str, Any]]) -> str:
    """What the code was at when rows were computed, in their order."""
    return ", ".join(dict.fromkeys(row["commit"] for row in rows))


def readable(number: float) -> str:
    """Three digits, without an exponent."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def markdown(heads: Sequence[str], rows: Iterable[Iterable[str]], caption: str = "") -> str:
    """A Markdown table, and below it what there is to say about it."""
    table = "\n".join(_line(cells) for cells in (heads, ["---"] * len(heads), *rows))
    return f"{table}\n\n{caption}" if caption else table


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def commit() -> str:
    """The commit the code is at, marked when files other than rows and pictures were changed since.

    L2O_COMMIT says it where the code is a copy without its history.
    """
    if "L2O_COMMIT" in os.environ:
        return os.environ["L2O_COMMIT"]
    where = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=where, capture_output=True, text=True)
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude,top)benchmarks/results"],
            cwd=where,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        return "unknown"
    return (head.stdout.strip() or "unknown") + ("+changes" if dirty.stdout.strip() else "")


def machine() -> dict[str, Any]:
    """Versions and hardware."""
    versions = {}
    for package in ("torch", "numpy", "l2o"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "none"
    return {
        "python": platform.python_version(),
        "versions": versions,
        "machine": f"{_cpu()}, {os.cpu_count()} cores",
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _plain(config: Any) -> Any:
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = dataclasses.asdict(config)
    return json.loads(json.dumps(config, default=_name))


def _name(value: Any) -> str:
    """A path as rows tell it: where a folder lies on one machine says nothing on another."""
    return value.name if isinstance(value, Path) and value.is_absolute() else str(value)

"""Which estimates every outer step was made of: one line a step, in the run's folder, that can be checked."""

from __future__ import annotations

import json
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from l2o.files import read_file, write_atomically

OF_ESTIMATE = ("worker", "number")


class Ledger:
    """`ledger.jsonl`, of lines {"step", "used", "not_finite", "events"}, see `MetaTrainer.entry`, and their "crc32".

    Arguments:
        path: of the file.
        step: of the state that the run goes on from; lines after it tell of steps that are to be made again, and go.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        kept = [line for line in read(path) if line["step"] <= step] if path.exists() else []
        last = kept[-1]["step"] if kept else 0
        if last < step:
            warnings.warn(f"{path} tells of steps up to {last}, and the run goes on from {step}.", stacklevel=3)
        write_atomically(path, "".join(map(_line, kept)).encode())

    def append(self, entry: dict[str, Any]) -> None:
        """Add a step."""
        with open(self.path, "a") as file:
            file.write(_line(entry))


class Audit(NamedTuple):
    """What a ledger shows.

    steps: outer steps.
    used: estimates that they were made of.
    missing: estimates that a worker made but no step was made of, and that no line tells of.
    events: how often what happened: a host lost, a worker moved, an estimate discarded, ...
    """

    steps: int
    used: int
    missing: int
    events: dict[str, int]


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a ledger; a last one that was cut off in writing is left out.

    Raises:
        ValueError: another line is damaged.
    """
    lines = read_file(path).split(b"\n")
    found: list[dict[str, Any]] = []
    for i, line in enumerate(lines[: len(lines) - (lines[-1] == b"")]):
        entry = _entry(line)
        if entry is not None:
            found.append(entry)
        elif i + 1 < len(lines):
            raise ValueError(
                f"a line of a ledger must be JSON of a step; line {i + 1} of {path} is not. A run goes on without a "
                "ledger: remove the file, and what it tells of the steps so far."
            )
    return found


def _line(entry: dict[str, Any]) -> str:
    return json.dumps({**entry, "crc32": _crc(entry)}) + "\n"


def _crc(entry: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(entry, sort_keys=True).encode())


def _entry(line: bytes) -> dict[str, Any] | None:
    """A line's step, if it tells of one."""
    try:
        entry = json.loads(line)
        if entry.pop("crc32", None) not in (None, _crc(entry)):  # lines of older versions have none
            return None
        pairs = [*entry["used"], *entry["not_finite"]]
        whole = type(entry["step"]) is int and all(type(n) is int for pair in pairs for n in pair)
        whole = whole and all(len(pair) >= 2 for pair in pairs)
        whole = whole and all(isinstance(event["event"], str) for event in entry["events"])
        discarded = [event for event in entry["events"] if event["event"] == "discarded"]
        return entry if whole and all(type(event[key]) is int for event in discarded for key in OF_ESTIMATE) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def audit(path: Path) -> Audit:
    """Check a ledger.

    Raises:
        ValueError: a step is missing or stands there twice, or an estimate was used twice.
    """
    lines = read(path)
    steps = [line["step"] for line in lines]
    if steps != list(range(1, len(steps) + 1)):
        wrong = next(i for i, step in enumerate(steps, 1) if step != i)
        raise ValueError(
            f"steps of a ledger must be 1, 2, 3, ...; in {path} step {steps[wrong - 1]} follows {wrong - 1}."
        )
    used = [tuple(pair[:2]) for line in lines for pair in line["used"]]
    dropped = [tuple(pair[:2]) for line in lines for pair in line["not_finite"]]
    events = [event for line in lines for event in line["events"]]
    dropped += [(event["worker"], event["number"]) for event in events if event["event"] == "discarded"]
    twice = [pair for pair, count in Counter([*used, *dropped]).items() if count > 1]
    if twice:
        worker, number = twice[0]
        raise ValueError(f"an estimate must be used once; in {path} number {number} of worker {worker} stands twice.")
    last = Counter[int]()
    for worker, number in [*used, *dropped]:
        last[worker] = max(last[worker], number)
    missing = sum(last.values()) - len(used) - len(dropped)
    return Audit(len(steps), len(used), missing, dict(Counter(event["event"] for event in events)))

"""A reader of files is given one after the other; what else it does than return or refuse is a finding."""

from __future__ import annotations

import signal
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st

DOCUMENTED = (ValueError, FileNotFoundError)
NO_MEMORY = ("DefaultCPUAllocator", "MemoryError", "Unable to allocate")


@dataclass(frozen=True)
class Target:
    """A reader of files.

    Arguments:
        file: the name of the file that it is given, in an empty folder.
        inputs: draws the file's bytes.
        read: what a user would do with the file.
    """

    file: str
    inputs: st.SearchStrategy[bytes]
    read: Callable[[Path], Any]


@dataclass
class Tally:
    """What came of the files of one reader: how many were accepted or refused, and what else happened."""

    accepted: int = 0
    refused: int = 0
    findings: list[str] = field(default_factory=list)


class Finding(BaseException):
    """What must not happen; no reader catches it."""


def fuzz(target: Target, examples: int, seed: int, tally: Tally, seconds: int = 20) -> None:
    """Give a reader so many files; the first finding ends the round, in the smallest file that hypothesis sees."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
    )
    @hypothesis.given(target.inputs)
    def attempt(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            read(target, data, Path(folder), tally, seconds)

    attempt()


def read(target: Target, data: bytes, folder: Path, tally: Tally, seconds: int) -> None:
    """Give a reader one file, below a folder in which nothing else may appear."""
    path = folder / "inside" / target.file
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    before = sorted(folder.rglob("*"))
    _within(seconds, lambda: _read(target, path, tally))
    if sorted(folder.rglob("*")) != before or path.read_bytes() != data:
        raise Finding(f"files have changed, from {before} to {sorted(folder.rglob('*'))}")


def _read(target: Target, path: Path, tally: Tally) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning is no crash
            target.read(path)
        tally.accepted += 1
    except DOCUMENTED as error:
        if isinstance(error.__cause__, MemoryError) or any(word in str(error) for word in NO_MEMORY):
            raise Finding(f"asks for memory without end: {error}") from error
        tally.refused += 1
    except Exception as error:
        raise Finding(f"{type(error).__name__}: {error}") from error


def _within(seconds: int, call: Callable[[], None]) -> None:
    def hang(*_: Any) -> None:
        raise Finding(f"takes more than {seconds} s of the CPU")

    before = signal.signal(signal.SIGPROF, hang)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        call()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)

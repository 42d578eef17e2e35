"""Does any file make l2o crash, hang, take memory without end, or write where it should not?

    python -m benchmarks.fuzz --minutes 30 --record

Rounds are kept in `rounds.jsonl` of the folder `--out`: another call goes on with other seeds, and rows are of all.
Every reader of files is given damaged and hostile ones, drawn by hypothesis from a seed. A reader may return, or raise
the errors that it documents, ValueError and FileNotFoundError; all else is a finding, told with the file.
"""

from __future__ import annotations

import json
import resource
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import tyro

from benchmarks.fuzz_inputs import Target, targets
from benchmarks.record import RESULTS, write

DOCUMENTED = (ValueError, FileNotFoundError)
NO_MEMORY = ("DefaultCPUAllocator", "MemoryError", "Unable to allocate")


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        minutes: of the clock, for all readers together; each has an equal share, and one round at least.
        examples: files of a round; a round has a seed of its own.
        seed: of the first round.
        seconds: of the CPU that one file may take.
        megabytes: of memory that reading may take beyond what was there before.
        out: folder of the rows.
        record: keep the rows in benchmarks/results.
    """

    minutes: float = 30.0
    examples: int = 500
    seed: int = 0
    seconds: int = 20
    megabytes: int = 3000
    out: Path = Path("runs/fuzz")
    record: bool = False


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


def rounds(name: str, config: Config, number: int, minutes: float) -> Iterator[dict[str, Any]]:
    """What came of each round of a reader, from seed `number` on, until the minutes are over or something is found."""
    began = time.monotonic()
    found: list[str] = []
    while not found and (not (spent := time.monotonic() - began) or spent < 60 * minutes):
        tally, start, cpu = Tally(), time.monotonic(), time.process_time()
        try:
            fuzz(targets()[name], config.examples, config.seed + number, tally, config.seconds)
        except Finding as finding:
            found = [str(finding)[:500]]
        row = {"files": name, "seed": config.seed + number, "accepted": tally.accepted, "refused": tally.refused}
        row |= {"findings": found, "seconds": time.monotonic() - start, "cpu_seconds": time.process_time() - cpu}
        yield row | {"peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
        number += 1


def run(config: Config) -> Iterator[dict[str, Any]]:
    """A row for each reader, of all rounds so far."""
    config.out.mkdir(parents=True, exist_ok=True)
    kept = config.out / "rounds.jsonl"
    done = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    for name in targets():
        number = sum(one["files"] == name for one in done)
        for one in rounds(name, config, number, config.minutes / len(targets())):
            done.append(one)
            with open(kept, "a") as file:
                file.write(json.dumps(one) + "\n")
        some = [one for one in done if one["files"] == name]
        row: dict[str, Any] = {"files": name, "rounds": len(some)}
        for key in ("accepted", "refused", "findings", "seconds", "cpu_seconds"):
            row[key] = sum((one[key] for one in some), [] if key == "findings" else 0)  # type: ignore[arg-type]
        yield row | {"peak_megabytes": max(one["peak_megabytes"] for one in some)}


def limit_memory(megabytes: int) -> None:
    """No more address space than there is in use, and so much."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main(config: Config) -> None:
    """Fuzz, and write the rows."""
    targets()
    limit_memory(config.megabytes)
    path = write("fuzz", config, _told(run(config)), RESULTS if config.record else config.out)
    print(f"rows: {path}")


def _told(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        found = "nothing" if not row["findings"] else row["findings"][0]
        print(f"{row['files']}: {row['accepted']} accepted, {row['refused']} refused; found {found}", flush=True)
        yield row


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))

"""Does any file make l2o crash, hang, take memory without end, or write where it should not?

    python -m benchmarks.fuzz --minutes 30 --record

Rounds are kept in `rounds.jsonl` of the folder `--out`: another call goes on with other seeds, and rows are of all.
Every reader of files is given damaged and hostile ones, drawn by hypothesis from a seed. A reader may return, or raise
the errors that it documents, ValueError and FileNotFoundError; all else is a finding, told with the file.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.fuzz.reader import Finding, Tally, fuzz
from benchmarks.fuzz.targets import targets
from benchmarks.record import RESULTS, write


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

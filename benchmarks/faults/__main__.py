"""What do a killed process, a full disk, a truncated file and a flipped byte cost a run, and are they told?

    python -m benchmarks.faults --num-faults 1000 --record

Every fault strikes a run of its own. Kills and full disks strike a process that works, at a random moment or byte;
truncations and flips strike a random file of what it left. Then the work goes on to its end, and what it ends with is
compared bit for bit with the work that nothing struck. The disk is full by a limit on the size of files
(RLIMIT_FSIZE), which ends a write in its middle. Outcomes are kept in `outcomes.jsonl` of the folder `--out`, so that
another call goes on with the faults that are left.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.faults.strike import FAULTS, Outcome, strike, undisturbed
from benchmarks.faults.subjects import SUBJECTS
from benchmarks.record import RESULTS, write

IN_TURN = ("meta-training", "weights", "meta-training", "library of skills")


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        num_faults: of all kinds together.
        seed: of the faults.
        minutes: after which a call ends, with rows of the faults so far.
        out: folder of the rows.
        record: keep the rows in benchmarks/results.
    """

    num_faults: int = 1000
    seed: int = 0
    minutes: float = 120.0
    out: Path = Path("runs/faults")
    record: bool = False


def outcomes(config: Config) -> Iterator[Outcome]:
    """Faults of all kinds in turn; half of them strike a run of meta-training."""
    config.out.mkdir(parents=True, exist_ok=True)
    kept = config.out / "outcomes.jsonl"
    done = [Outcome(*json.loads(line)) for line in kept.read_text().splitlines()] if kept.exists() else []
    yield from done[: config.num_faults]
    whole = {name: undisturbed(name) for name in SUBJECTS}
    began = time.monotonic()
    for i in range(len(done), config.num_faults):
        if time.monotonic() - began > 60 * config.minutes:
            return
        dice = random.Random(config.seed * 10**6 + i)
        name = IN_TURN[i // len(FAULTS) % len(IN_TURN)]
        result, seconds = whole[name]
        outcome = strike(name, list(FAULTS)[i % len(FAULTS)], dice, seconds, result)
        with open(kept, "a") as file:
            file.write(json.dumps(outcome) + "\n")
        yield outcome


def run(config: Config) -> Iterator[dict[str, Any]]:
    """A row for each subject, fault and file."""
    found = list(outcomes(config))
    for key in sorted({_key(one) for one in found}):
        some = [one for one in found if _key(one) == key]
        row: dict[str, Any] = dict(zip(("subject", "fault", "file"), key, strict=True))
        row |= {"faults": len(some), "told": sum(bool(one.told) for one in some)}
        row |= {"recovered": sum(one.recovered for one in some), "silent": sum(one.silent for one in some)}
        row["most_steps_lost"] = max((one.lost for one in some if one.lost is not None), default=None)
        row["steps_between_checkpoints"] = SUBJECTS[key[0]].spare
        yield row | {"example": next((one.told for one in some if one.told), "")[:200]}


def _key(one: Outcome) -> tuple[str, str, str]:
    return one.subject, one.fault, "checkpoint" if one.file.startswith("step_") else one.file or "any"


def main(config: Config) -> None:
    """Strike, and write the rows."""
    print(f"rows: {write('faults', config, _told(run(config)), RESULTS if config.record else config.out)}")


def _told(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        print({name: row[name] for name in row if name != "example"}, flush=True)
        yield row


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))

"""What the driver of a pool knows of its workers, and by which rules it makes a step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from l2o.distributed.fleet import Member
from l2o.distributed.hosts import Call
from l2o.distributed.pool import check_workers


@dataclass(eq=False)
class Record:
    """What the driver knows of a worker.

    seed: that its problems began with; `first` is that of the pool.
    host: where it lives; None before it is settled.
    snapshot: its state at some time; None for its beginning.
    since: versions of theta of its estimates since.
    number: its estimates so far.
    life: how often it has been settled.
    call, version: what it has been asked for: an estimate at a theta, or (None) its state.
    replays: estimates that are made again before the answer.
    tries: attempts at this estimate that took too long, or to make the worker that failed; deaths: processes that died
        at it; anew: times that the worker began anew; all in a row.
    """

    index: int
    first: int
    seed: int
    host: Member | None = None
    snapshot: dict[str, Any] | None = None
    since: list[int] = field(default_factory=list)
    number: int = 0
    life: int = 0
    call: Call | None = None
    version: int | None = None
    replays: int = 0
    tries: int = 0
    deaths: int = 0
    anew: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Rules:
    """When a step is made, and what is borne.

    Arguments:
        quorum: estimates that make a step; None for all.
        max_staleness: outer steps that theta may have made since a worker got it; later estimates are thrown away.
        late: whether a stale estimate counts in full (`keep`), or divided by 1 + staleness (`downweight`).
        timeout: seconds for an estimate, from when its host turns to it. A host that takes longer is ended; a worker
            whose estimate takes longer three times in a row begins anew with fresh problems.
        snapshot_every: estimates between a worker's snapshots: most of what must be made again when a host is lost.
    """

    quorum: int | None = None
    max_staleness: int = 0
    late: Literal["keep", "downweight"] = "keep"
    timeout: float = 600.0
    snapshot_every: int = 10

    def check(self, num_workers: int) -> None:
        """Raise a ValueError unless such a pool can work."""
        check_workers(num_workers)
        if self.quorum is not None and not 1 <= self.quorum <= num_workers:
            raise ValueError(f"quorum must be from 1 to the number of workers, {num_workers}; got {self.quorum}.")
        if self.max_staleness < 0 or self.snapshot_every < 1 or not self.timeout > 0:
            raise ValueError(
                "max_staleness must be 0 or more, snapshot_every 1 or more and timeout positive; got "
                f"{self.max_staleness}, {self.snapshot_every} and {self.timeout}."
            )


def check_gpus(num_workers: int, gpus_per_worker: float, cpu_workers: int) -> None:
    """Raise a ValueError unless so many workers can have such a share of a GPU each, and some none."""
    if not 0 <= gpus_per_worker < math.inf or (gpus_per_worker > 1 and gpus_per_worker % 1):
        raise ValueError(f"gpus_per_worker must be a share of one GPU or a whole number; got {gpus_per_worker}.")
    if not 0 <= cpu_workers <= num_workers:
        raise ValueError(f"cpu_workers must be some of the {num_workers} workers; got {cpu_workers}.")

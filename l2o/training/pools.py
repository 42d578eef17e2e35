"""Where a run's workers are, as plain values of its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from l2o.distributed.pool import LocalPool, WorkerPool
from l2o.distributed.roster import Rules
from l2o.estimators.base import GradientEstimator
from l2o.types import Theta


@dataclass(frozen=True)
class PoolConfig:
    """The workers of a run.

    Arguments:
        workers: independent workers, each with tasks of its own; their estimates are averaged.
        pool: where workers are: one after the other in this process (local), in processes of Ray (ray), or Ray where
            there are several and Ray is installed (auto). The numbers are the same.
        address: of a Ray cluster: auto, ray://...; None starts Ray on this machine.
        quorum: estimates that make an outer step, of Ray's workers; None waits for all. With fewer, the rest go on with
            the theta they have, and runs are no longer the same for the same seed.
        max_staleness: outer steps that theta may have made since a worker got it; later estimates are thrown away.
        late: whether a stale estimate counts in full (keep), or divided by 1 + staleness (downweight).
        worker_timeout: seconds for an estimate, after which its process is ended and the estimate made elsewhere.
        snapshot_every: estimates between the snapshots that a lost worker is brought back from.
    """

    workers: int = 1
    pool: Literal["auto", "local", "ray"] = "auto"
    address: str | None = None
    quorum: int | None = None
    max_staleness: int = 4
    late: Literal["keep", "downweight"] = "downweight"
    worker_timeout: float = 600.0
    snapshot_every: int = 10

    @property
    def on_ray(self) -> bool:
        """Whether workers are Ray's."""
        if self.pool == "auto":
            asked = self.address is not None or self.quorum is not None
            return asked or (self.workers > 1 and find_spec("ray") is not None)
        return self.pool == "ray"

    def make_pool(self, estimator: GradientEstimator, theta: Theta, seed: int, threads: int) -> WorkerPool:
        """The pool, with its workers begun.

        Raises:
            ValueError: settings of Ray's workers for local ones.
        """
        if not self.on_ray:
            for name in ("address", "quorum"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} needs workers of Ray's (--pool ray); got {getattr(self, name)!r}.")
            return LocalPool(estimator, theta, self.workers, seed)
        from l2o.distributed.ray_pool import RayPool  # Ray is an extra

        return RayPool(
            estimator,
            theta,
            self.workers,
            seed,
            self.address,
            max(1, threads),
            Rules(
                self.quorum,
                self.max_staleness if self.quorum is not None else 0,
                self.late,
                self.worker_timeout,
                self.snapshot_every,
            ),
        )

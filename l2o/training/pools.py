"""Where a run's workers are, as plain values of its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from l2o.distributed.pool import LocalPool, WorkerPool
from l2o.distributed.roster import Rules, check_gpus
from l2o.estimators.base import GradientEstimator
from l2o.types import Theta


@dataclass(frozen=True)
class PoolConfig:
    """The workers of a run.

    Arguments:
        workers: independent workers, each with tasks of its own; their estimates are averaged.
        pool: where workers are: one after the other in this process (local), in processes of Ray (ray), or Ray where
            there are several and Ray is installed (auto). The numbers are the same, on GPUs up to rounding.
        device: where this process computes, and the workers in it: cpu, cuda, cuda:1, ...; tasks, batches and
            perturbations are drawn on the CPU, so they are the same everywhere (dropout is drawn where it acts).
        gpus_per_worker: GPUs that each process of Ray's asks for and computes on; 0.25 puts four on one, 0 leaves them
            on the CPU.
        cpu_workers: of Ray's processes, those that do without a GPU all the same.
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
    device: str = "cpu"
    gpus_per_worker: float = 0.0
    cpu_workers: int = 0
    address: str | None = None
    quorum: int | None = None
    max_staleness: int = 4
    late: Literal["keep", "downweight"] = "downweight"
    worker_timeout: float = 600.0
    snapshot_every: int = 10

    def __post_init__(self) -> None:
        check_gpus(self.workers, self.gpus_per_worker, self.cpu_workers)
        if self.cpu_workers and not self.gpus_per_worker:
            raise ValueError(f"cpu_workers need gpus_per_worker for the others; got {self.cpu_workers} and none.")

    @property
    def on_ray(self) -> bool:
        """Whether workers are Ray's."""
        if self.pool == "auto":
            asked = self.address is not None or self.quorum is not None or self.gpus_per_worker > 0
            return asked or (self.workers > 1 and find_spec("ray") is not None)
        return self.pool == "ray"

    def make_pool(self, estimator: GradientEstimator, theta: Theta, seed: int, threads: int) -> WorkerPool:
        """The pool, with its workers begun.

        Raises:
            ValueError: settings of Ray's workers for local ones.
        """
        if not self.on_ray:
            for name in ("address", "quorum", "gpus_per_worker", "cpu_workers"):
                if getattr(self, name):
                    raise ValueError(f"{name} needs workers of Ray's (--pool ray); got {getattr(self, name)!r}.")
            return LocalPool(estimator, theta, self.workers, seed)
        if self.device != "cpu" and not self.gpus_per_worker:
            raise ValueError(
                f"device is that of this process only, so workers of Ray's need gpus_per_worker beside it (or --pool "
                f"local); got device {self.device!r} and gpus_per_worker 0."
            )
        from l2o.distributed.ray_pool import RayPool  # Ray is an extra

        return RayPool(
            estimator,
            theta,
            self.workers,
            seed,
            self.address,
            max(1, threads),
            self.gpus_per_worker,
            self.cpu_workers,
            Rules(
                self.quorum,
                self.max_staleness if self.quorum is not None else 0,
                self.late,
                self.worker_timeout,
                self.snapshot_every,
            ),
        )

"""Workers as Ray actors, on this machine or a cluster; the only file that imports Ray."""

from __future__ import annotations

import os
from typing import Any

import torch

from l2o.distributed.pool import Worker, WorkerPool
from l2o.estimators.base import GradientEstimator, MetaGradient
from l2o.types import Theta


class RayPool(WorkerPool):
    """The workers of a `LocalPool`, each in a process of its own: the same numbers for the same seed.

    An outer step waits for all workers; the estimates come in the workers' order, whoever was first. What a worker
    raises is raised here.

    Arguments:
        estimator, theta, num_workers, seed: as of `LocalPool`; the estimator is sent to each worker.
        address: of a cluster (`auto`, `ray://...`); None starts Ray on this machine, unless it runs already.
        threads: CPU threads of a worker, and the CPUs that it asks of a cluster; on this machine it asks for none, so
            that workers that are more than CPUs share them. Sums depend on threads in their last digits.
    """

    def __init__(
        self,
        estimator: GradientEstimator,
        theta: Theta,
        num_workers: int = 2,
        seed: int = 0,
        address: str | None = None,
        threads: int = 1,
    ) -> None:
        if num_workers < 1 or threads < 1:
            raise ValueError(f"a pool needs a worker and a thread; got num_workers={num_workers}, threads={threads}.")
        self._ray = _connected(address)
        actor = self._ray.remote(num_cpus=threads if address else 0)(_Actor)
        shared = self._ray.put((estimator, {name: value.cpu() for name, value in theta.items()}))
        self.actors = [actor.remote(shared, seed + i, threads) for i in range(num_workers)]

    def estimate(self, theta: Theta) -> list[MetaGradient]:
        sent = self._ray.put({name: value.detach().cpu() for name, value in theta.items()})
        return self._ray.get([actor.estimate.remote(sent) for actor in self.actors])

    def state_dict(self) -> dict[str, Any]:
        return {"workers": self._ray.get([actor.state_dict.remote() for actor in self.actors])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        saved = state["workers"]
        if len(saved) != len(self.actors):
            raise ValueError(
                "a pool resumes with the number of workers it was saved with, because each has problems of its own; "
                f"got {len(self.actors)} workers for {len(saved)} saved ones."
            )
        self._ray.get([a.load_state_dict.remote(one) for a, one in zip(self.actors, saved, strict=True)])

    def close(self) -> None:
        """End the workers; Ray itself goes on."""
        for actor in self.actors:
            self._ray.kill(actor)
        self.actors = []


class _Actor:
    """A worker in a process of its own."""

    def __init__(self, shared: tuple[GradientEstimator, Theta], seed: int, threads: int) -> None:
        torch.set_num_threads(threads)
        estimator, theta = shared
        self.worker = Worker(estimator, theta, seed)

    def estimate(self, theta: Theta) -> MetaGradient:
        return self.worker.estimate(theta)

    def state_dict(self) -> dict[str, Any]:
        return self.worker.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.worker.load_state_dict(state)


def _connected(address: str | None) -> Any:
    """Ray, started on this machine or joined."""
    try:
        import ray
    except ImportError as error:
        raise ImportError("a pool of Ray workers needs Ray: pip install 'l2o[ray]'.") from error
    if ray.is_initialized():
        return ray
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    options: dict[str, Any] = {"log_to_driver": False, "include_dashboard": False}
    for attempt in range(3):
        try:
            ray.init(address) if address else ray.init("local", **options)
            return ray
        except (ConnectionError, TimeoutError, RuntimeError):
            ray.shutdown()  # its start-up has a fixed limit of 30 seconds, which a busy machine may miss
            if attempt == 2:
                raise
    raise AssertionError

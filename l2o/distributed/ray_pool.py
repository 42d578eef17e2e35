"""Workers in Ray's actors, on this machine or a cluster; the only file that imports Ray."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Sequence
from typing import Any

import torch

from l2o.distributed.elastic import ElasticPool
from l2o.distributed.hosts import Backend, Call, Host, HostLostError, Residents, WorkerError
from l2o.distributed.pool import Worker
from l2o.distributed.roster import Rules, check_gpus
from l2o.estimators.base import GradientEstimator
from l2o.types import Theta, bring, device_of

FETCH = 300.0
"""Seconds for an answer that is there to be brought here."""

LOST = (
    *("ActorDiedError", "ActorUnavailableError", "WorkerCrashedError", "NodeDiedError", "OutOfMemoryError"),
    *("ObjectLostError", "ObjectFetchTimedOutError", "GetTimeoutError", "LocalRayletDiedError", "RpcError"),
)
"""Ray's errors that tell of a lost process, node or object."""


class RayPool(ElasticPool):
    """An `ElasticPool` whose hosts are Ray actors: the numbers of a `LocalPool` with the same seed, for quorum None.

    On GPUs the numbers are the same up to rounding, which depends on where a worker has lived.

    Actors are spread over the nodes of a cluster and started again by Ray, on whatever node has room. The driver, which
    is the process that makes the pool, keeps what they need to go on.

    Arguments:
        estimator, theta, num_workers, seed: as of `LocalPool`; the estimator is sent to each actor.
        address: of a cluster (`auto`, `ray://...`); None starts Ray on this machine, unless it runs already.
        threads: CPU threads of an actor, and the CPUs that it asks of a cluster; on this machine it asks for none, so
            that workers that are more than CPUs share them. Sums depend on threads in their last digits.
        gpus_per_worker: GPUs that each process asks for and computes on, a share of one if below 1; 0 for the CPU.
        cpu_workers: processes that do without.
        rules: as of `ElasticPool`.
    """

    def __init__(
        self,
        estimator: GradientEstimator,
        theta: Theta,
        num_workers: int = 2,
        seed: int = 0,
        address: str | None = None,
        threads: int = 1,
        gpus_per_worker: float = 0.0,
        cpu_workers: int = 0,
        rules: Rules | None = None,
    ) -> None:
        (rules or Rules()).check(num_workers)
        check_gpus(num_workers, gpus_per_worker, cpu_workers)
        if threads < 1:
            raise ValueError(f"threads must be at least 1; got {threads}.")
        backend = RayBackend(estimator, theta, address, threads, gpus_per_worker, cpu_workers)
        super().__init__(backend, num_workers, seed, rules=rules)


class RayBackend(Backend):
    """Actors of Ray.

    Arguments:
        estimator, theta, address, threads, gpus_per_worker, cpu_workers: as of `RayPool`.
        gpu: what torch calls a GPU.
    """

    def __init__(
        self,
        estimator: GradientEstimator,
        theta: Theta,
        address: str | None,
        threads: int,
        gpus_per_worker: float = 0.0,
        cpu_workers: int = 0,
        gpu: str = "cuda",
    ) -> None:
        if gpus_per_worker and estimator.module is None:
            raise ValueError(
                f"gpus_per_worker needs an estimator that tells its module, to be brought to the GPU; "
                f"{type(estimator).__name__} does not."
            )
        self.ray = _connected(address)
        there = self.ray.cluster_resources().get("GPU", 0.0)
        if gpus_per_worker > there and not address:
            raise ValueError(f"gpus_per_worker must be there; Ray finds {there:g} GPUs here, got {gpus_per_worker:g}.")
        options = {"num_cpus": threads if address else 0, "max_restarts": -1, "max_task_retries": 0}
        self.actor = self.ray.remote(scheduling_strategy="SPREAD", **options)(_Actor)
        self.threads, self.gpus, self.cpu_hosts, self.gpu = threads, gpus_per_worker, cpu_workers, gpu
        self.problem = self.ray.put(portable(estimator, theta))
        self.hosts: list[RayHost] = []

    def start(self) -> RayHost:
        on_gpu = self.gpus > 0 and len(self.hosts) >= self.cpu_hosts
        kind = self.actor.options(num_gpus=self.gpus) if on_gpu else self.actor
        actor = kind.remote(self.threads, self.gpu if on_gpu else "cpu")
        self.hosts.append(RayHost(self.ray, actor, self.problem))
        return self.hosts[-1]

    def put(self, value: Any) -> Any:
        return self.ray.put(value)

    def wait(self, calls: Sequence[Call], timeout: float, linger: float = 0.0) -> list[Call]:
        by_ref = {call.ref: call for call in calls if isinstance(call, RayCall)}
        refs = list(by_ref)
        done, _ = self.ray.wait(refs, num_returns=1, timeout=timeout if math.isfinite(timeout) else None)
        if done:  # and whoever else is there
            done, _ = self.ray.wait(refs, num_returns=len(refs), timeout=linger)
        return [by_ref[ref] for ref in done]

    def close(self) -> None:
        """End the actors; Ray itself goes on."""
        if self.ray.is_initialized():  # or they have ended with it
            for host in self.hosts:
                self.ray.kill(host.actor)
        self.hosts = []


def portable(estimator: GradientEstimator, theta: Theta) -> tuple[GradientEstimator, Theta]:
    """Both as a process without a GPU can receive them."""
    module = estimator.module
    if module is not None and device_of(module).type != "cpu":
        estimator = copy.deepcopy(estimator)
        assert estimator.module is not None
        bring(estimator.module, "cpu")
    return estimator, {name: value.detach().cpu() for name, value in theta.items()}


class RayHost(Host):
    """An actor."""

    def __init__(self, ray: Any, actor: Any, problem: Any) -> None:
        self.ray, self.actor, self.problem = ray, actor, problem

    def call(self, method: str, *args: Any) -> RayCall:
        if method == "ready":  # answered once the actor has started, or has started again
            return RayCall(self.ray, self.actor.furnish.options(max_task_retries=-1).remote(self.problem))
        return RayCall(self.ray, getattr(self.actor, method).remote(*args))

    def kill(self) -> None:
        self.ray.kill(self.actor, no_restart=False)


class RayCall(Call):
    """A result to come."""

    def __init__(self, ray: Any, ref: Any) -> None:
        self.ray, self.ref = ray, ref

    def result(self) -> Any:
        known = self.ray.exceptions
        try:
            return self.ray.get(self.ref, timeout=FETCH)
        except known.RayTaskError as error:
            if isinstance(error.cause, HostLostError | known.RayError):  # a RayError: an argument did not arrive
                raise HostLostError(_told(error.cause)) from error
            raise WorkerError(str(error)) from error.cause
        except tuple(getattr(known, name) for name in LOST if hasattr(known, name)) as error:
            raise HostLostError(_told(error)) from error
        except known.RayError as error:  # an exception that cannot be unpickled here, for one
            raise WorkerError(str(error)) from error


class _Actor(Residents):
    """Residents in a process of their own; what they work on comes after it has started, and started again."""

    def __init__(self, threads: int, device: str) -> None:
        torch.set_num_threads(threads)
        self.furnished, self.device = False, device

    def furnish(self, problem: tuple[GradientEstimator, Theta]) -> None:
        """Be told what to work on; told again, go on."""
        if not self.furnished:
            if problem[0].module is not None:
                bring(problem[0].module, self.device)
            super().__init__(*problem)
            self.furnished = True

    def settle(self, *args: Any) -> None:
        if not self.furnished:
            raise HostLostError("the process has started again since")
        super().settle(*args)

    def _worker(self, worker: int, life: int) -> Worker:
        if not self.furnished:
            raise HostLostError("the process has started again since")
        return super()._worker(worker, life)

    def pid(self) -> int:
        """The process."""
        return os.getpid()


def _told(error: BaseException) -> str:
    """The first lines of an error's message."""
    return " ".join(str(error).split())[:300] or type(error).__name__


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

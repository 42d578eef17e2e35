"""Processes that workers live in, whatever starts them: what an elastic pool asks of Ray, or of a simulation."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from l2o.distributed.pool import Worker
from l2o.estimators.base import GradientEstimator, MetaGradient
from l2o.types import Theta, tree_to


class HostLostError(Exception):
    """A process died, or cannot be reached; nothing that it was asked for will come."""


class WorkerError(Exception):
    """What was asked for raised an exception, the cause of this one; the process lives."""


class SettleError(Exception):
    """A worker could not be made in a process; the cause says why."""


class Call(ABC):
    """Something asked of a host."""

    @abstractmethod
    def result(self) -> Any:
        """The answer, waited for.

        Raises:
            HostLostError, WorkerError: there is none.
        """


class Host(ABC):
    """A process with `Residents`. One that was lost comes back empty, where and when there is room for it."""

    @abstractmethod
    def call(self, method: str, *args: Any) -> Call:
        """Ask for a method of `Residents`; arguments may be what `Backend.put` gave. Calls are answered in order."""

    @abstractmethod
    def kill(self) -> None:
        """End the process, which is stuck; another comes in its place."""


class Backend(ABC):
    """Starts hosts and carries what is said."""

    @abstractmethod
    def start(self) -> Host:
        """A host more; it is there once it answers."""

    @abstractmethod
    def put(self, value: Any) -> Any:
        """Make a value ready to be sent to many hosts; returns what stands for it in `Host.call`."""

    @abstractmethod
    def wait(self, calls: Sequence[Call], timeout: float, linger: float = 0.0) -> list[Call]:
        """The calls that are answered, at least one unless `timeout` seconds pass; after it others for `linger`."""

    @abstractmethod
    def close(self) -> None:
        """End all hosts."""

    def now(self) -> float:
        """Seconds on the clock that timeouts go by."""
        return time.monotonic()


class Reply(NamedTuple):
    """A host's answer to `estimate`: the gradient, the worker's estimates by now, seconds; its state if asked for."""

    gradient: MetaGradient
    number: int
    seconds: float
    state: dict[str, Any] | None


class Residents:
    """The workers that live in a process.

    Arguments:
        estimator: shared by all.
        theta: as of `LocalPool`.
    """

    def __init__(self, estimator: GradientEstimator, theta: Theta) -> None:
        self.estimator, self.theta = estimator, theta
        self.workers: dict[tuple[int, int], Worker | Exception] = {}

    def ready(self) -> bool:
        """Answers once the process is there."""
        return True

    def settle(
        self,
        worker: int,
        life: int,
        here: tuple[int, ...],
        seed: int,
        state: dict[str, Any] | None,
        number: int,
        *thetas: Theta,
    ) -> None:
        """Make a worker here as it was elsewhere. What goes wrong is told to whoever asks the worker next.

        Arguments:
            life: of the worker: how often it has been settled anywhere.
            here: the workers that live here; others have moved away.
            seed: that it began with.
            state: of the worker at some time; None before its first estimate.
            number: of estimates that it has made by now.
            thetas: of the estimates since `state`, which are made again and thrown away.
        """
        self.workers = {key: one for key, one in self.workers.items() if key[0] in here and key[0] != worker}
        try:
            made = Worker(self.estimator, self.theta, seed)
            if state is not None:
                made.load_state_dict(state)
            for theta in thetas:
                made.estimate(theta)
            made.number = number
            self.workers[worker, life] = made
        except Exception as error:
            self.workers[worker, life] = error

    def state(self, worker: int, life: int) -> dict[str, Any]:
        """A worker's state."""
        return tree_to(self._worker(worker, life).state_dict(), "cpu")

    def estimate(self, worker: int, life: int, theta: Theta, with_state: bool) -> Reply:
        """One estimate of a worker."""
        one, began = self._worker(worker, life), time.perf_counter()
        gradient = one.estimate(theta)
        seconds = time.perf_counter() - began
        state = one.state_dict() if with_state else None
        return Reply(tree_to(gradient, "cpu"), one.number, seconds, tree_to(state, "cpu"))

    def _worker(self, worker: int, life: int) -> Worker:
        """A worker in just this life: what it was asked to be before its process died, or was cut off, is void."""
        if (worker, life) not in self.workers:
            raise HostLostError(f"worker {worker} was made in a process that has died since")
        found = self.workers[worker, life]
        if isinstance(found, Exception):
            raise SettleError(f"{type(found).__name__}: {found}") from found
        return found

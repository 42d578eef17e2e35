"""A pool whose processes come and go, while its workers, and with them the numbers, stay.

Workers and hosts are two things. A worker is a generator and half-trained problems: a value, that can be made again
anywhere from its last snapshot and the thetas of its estimates since. A host is a process where workers live. When a
host is lost its workers move to others, are brought back to where they were, and their estimates are asked for again;
when one joins, workers move there. So a step gives the same estimates whatever happens to hosts, and each once.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from l2o.distributed.fleet import ATTEMPTS, Fleet, Member
from l2o.distributed.hosts import Backend, Call, HostLostError, Reply, WorkerError
from l2o.distributed.pool import Estimate, WorkerPool, check_workers, saved_workers
from l2o.types import Theta

LINGER, MANY = 0.01, 32
"""Seconds in which answers are collected, of more than so many workers, so that not each is seen to by itself."""

START = 60.0
"""Seconds that the first step waits for the last hosts, so that not all workers begin in the first."""


@dataclass(eq=False)
class _Worker:
    """What the driver knows of a worker.

    host: where it lives; None before it is settled.
    snapshot: its state at some time; None for its beginning.
    since: versions of theta of its estimates since.
    number: its estimates so far.
    life: how often it has been settled.
    call, version, deadline: what it has been asked for, at which theta, and until when.
    """

    index: int
    seed: int
    host: Member | None = None
    snapshot: dict[str, Any] | None = None
    since: list[int] = field(default_factory=list)
    number: int = 0
    life: int = 0
    call: Call | None = None
    version: int = 0
    deadline: float = 0.0
    failures: int = 0
    seconds: float = 0.0


class ElasticPool(WorkerPool):
    """Workers in the hosts of a backend.

    With `quorum` None a step waits for every worker and equals that of a `LocalPool` with the same seed. With a smaller
    one it takes the estimates of the first so many; the others go on with the theta they have.

    Arguments:
        backend: where hosts come from.
        num_workers: independent estimates; worker i starts from seed + i.
        num_hosts: processes to ask for; one a worker if None. More than there is room for are waited for meanwhile.
        quorum: estimates that make a step; None for all.
        max_staleness: outer steps that theta may have made since a worker got it; later estimates are thrown away.
        late: whether a stale estimate counts in full (`keep`), or divided by 1 + staleness (`downweight`).
        timeout: seconds for an estimate; a host that takes longer is ended, and a worker whose estimate takes longer
            three times in a row begins anew with fresh problems.
        snapshot_every: estimates between a worker's snapshots: most of what must be made again when a host is lost.

    Raises (from `estimate`):
        RuntimeError: there was no host for `timeout` seconds.
        Exception: what a worker raised, if all did in one step or one did three times in a row. Otherwise that worker
            begins anew with fresh problems, and the step is made without it.
    """

    def __init__(
        self,
        backend: Backend,
        num_workers: int,
        seed: int = 0,
        num_hosts: int | None = None,
        quorum: int | None = None,
        max_staleness: int = 0,
        late: Literal["keep", "downweight"] = "keep",
        timeout: float = 600.0,
        snapshot_every: int = 10,
    ) -> None:
        check_workers(num_workers)
        if quorum is not None and not 1 <= quorum <= num_workers:
            raise ValueError(f"quorum must be from 1 to the number of workers, {num_workers}; got {quorum}.")
        if max_staleness < 0 or snapshot_every < 1 or not timeout > 0:
            raise ValueError(
                "max_staleness must be 0 or more, snapshot_every 1 or more and timeout positive; got "
                f"{max_staleness}, {snapshot_every} and {timeout}."
            )
        self.backend, self.quorum, self.max_staleness, self.late = backend, quorum or num_workers, max_staleness, late
        self.timeout, self.snapshot_every = timeout, snapshot_every
        self.counts: Counter[str] = Counter()
        self.workers = [_Worker(i, seed + i) for i in range(num_workers)]
        self.fleet = Fleet(backend, num_hosts or num_workers, self._note)
        self.version = 0
        self._thetas: dict[int, Any] = {}
        self._events: list[dict[str, Any]] = []
        self._stale: list[int] = []
        self._crowd = 1  # workers of a host, which take turns
        self._raised: list[BaseException] = []

    # what a trainer asks for

    def estimate(self, theta: Theta) -> list[Estimate]:
        self.version += 1
        self._thetas[self.version] = self.backend.put({name: value.detach().cpu() for name, value in theta.items()})
        self.fleet.gather(min(self.timeout, START) if self.version == 1 else 0.0)
        self._balance()
        self._crowd = math.ceil(len(self.workers) / max(1, len(self.fleet.living)))
        for worker in self.workers:
            if worker.call is None:
                self._send(worker, self.version)
        found: list[Estimate] = []
        self._raised = []
        while len(found) < self.quorum and any(worker.call is not None for worker in self.workers):
            for worker in self._answered():
                self._take(worker, found)
        if not found:
            raise self._raised[0]
        self._stale = [estimate.staleness for estimate in found]
        self._forget()
        return sorted(found, key=lambda estimate: estimate.worker)

    def state_dict(self) -> dict[str, Any]:
        states = self._ask(self.workers, "state")
        for worker, state in zip(self.workers, states, strict=True):
            if worker.call is None:
                worker.snapshot, worker.since = state, []
        return {"workers": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for worker, one in zip(self.workers, saved_workers(state, len(self.workers)), strict=True):
            worker.snapshot, worker.since, worker.number = one, [], one.get("number", 0)
            worker.host, worker.call = None, None
        self._forget()

    def metrics(self) -> dict[str, float]:
        """Hosts, restarts and the like; seconds of an estimate by worker (the first 16) and of the slowest."""
        told: dict[str, float] = {name: float(self.counts[name]) for name in COUNTED}
        told["hosts"] = float(len(self.fleet.living))
        told["staleness"] = sum(self._stale) / max(1, len(self._stale))
        told["seconds/slowest"] = max(worker.seconds for worker in self.workers)
        return told | {f"seconds/worker_{worker.index}": worker.seconds for worker in self.workers[:16]}

    def events(self) -> list[dict[str, Any]]:
        told, self._events = self._events, []
        return told

    def close(self) -> None:
        self.backend.close()

    # estimates

    def _send(self, worker: _Worker, version: int) -> None:
        """Ask for an estimate; the worker is made where it is to live, if it lives nowhere."""
        replayed = self._settle(worker)
        assert worker.host is not None
        with_state = (worker.number + 1 + worker.index) % self.snapshot_every == 0
        worker.call = worker.host.process.call("estimate", worker.index, worker.life, self._thetas[version], with_state)
        worker.version, worker.deadline = version, self.backend.now() + self.timeout * (self._crowd + replayed)

    def _answered(self) -> list[_Worker]:
        """Workers whose estimates are there; sees to hosts meanwhile."""
        asked = {worker.call: worker for worker in self.workers if worker.call is not None}
        soonest = min(worker.deadline for worker in asked.values())
        linger = LINGER if len(asked) > MANY else 0.0
        done = self.backend.wait([*asked, *self.fleet.awaited()], max(0.0, soonest - self.backend.now()), linger)
        self.fleet.greet(done)
        if not done:
            self._expire()
        return sorted((asked[call] for call in done if call in asked), key=lambda worker: worker.index)

    def _take(self, worker: _Worker, found: list[Estimate]) -> None:
        if worker.call is None or worker.host is None:
            return  # its host was lost while others were taken
        try:
            reply: Reply = worker.call.result()
        except HostLostError as error:
            self._lose(worker.host, str(error))
            return
        except WorkerError as error:
            cause = error.__cause__ or error
            worker.failures += 1
            if worker.failures >= ATTEMPTS:
                raise cause from None
            self._begin_anew(worker, cause)
            return
        worker.call, worker.failures, worker.seconds = None, 0, reply.seconds
        worker.number += 1
        if reply.state is None:
            worker.since.append(worker.version)
        else:
            worker.snapshot, worker.since = reply.state, []
        staleness = self.version - worker.version
        if staleness > self.max_staleness:
            self._note("discarded", worker=worker.index, number=worker.number, staleness=staleness)
            self._send(worker, self.version)
            return
        weight = 1.0 / (1 + staleness) if self.late == "downweight" else 1.0
        found.append(Estimate(reply.gradient, worker.index, worker.number, staleness, weight, reply.seconds))

    def _begin_anew(self, worker: _Worker, why: BaseException) -> None:
        """A worker whose problems cannot be gone on with gets fresh ones, and misses this step."""
        self._note("begun_anew", worker=worker.index, number=worker.number, why=f"{type(why).__name__}: {why}")
        self._raised.append(why)
        worker.seed = random.Random(f"{worker.seed} {worker.number} {worker.failures}").getrandbits(31)
        worker.host, worker.call, worker.snapshot, worker.since = None, None, None, []

    def _forget(self) -> None:
        """Drop the thetas that nobody will be brought back with."""
        needed = {self.version} | {version for worker in self.workers for version in worker.since}
        needed |= {worker.version for worker in self.workers if worker.call is not None}
        self._thetas = {version: theta for version, theta in self._thetas.items() if version in needed}

    # where workers live

    def _lose(self, host: Member, why: str) -> None:
        """A host is gone: ask for it anew, and let its workers go on elsewhere, at the same thetas."""
        self.fleet.lost(host, why)
        stranded = [worker for worker in self.workers if worker.host is host]
        for worker in stranded:
            worker.host = None
        for worker in stranded:
            if worker.call is not None:
                worker.call = None
                self._send(worker, worker.version)

    def _expire(self) -> None:
        """Estimates that take too long: end their hosts; a worker that does it again and again begins anew."""
        now = self.backend.now()
        for worker in self.workers:
            if worker.call is None or worker.host is None or worker.deadline > now:
                continue
            worker.failures += 1
            self._note("timeouts", worker=worker.index, number=worker.number + 1)
            host = worker.host
            host.process.kill()
            if worker.failures >= ATTEMPTS:
                told = f"an estimate must come within {self.timeout} s; that of worker {worker.index} did not, thrice."
                self._begin_anew(worker, TimeoutError(told))
                worker.failures = 0
            self._lose(host, "took too long")

    def _settle(self, worker: _Worker) -> int:
        """Make a worker at the living host with fewest, unless it lives somewhere; returns estimates made again."""
        if worker.host is not None:
            return 0
        worker.host = self.fleet.roomiest(self._loads(), self.timeout)
        thetas = [self._thetas[version] for version in worker.since]
        self.counts["replayed"] += len(thetas)
        if worker.snapshot is not None or thetas:
            self._note("moved", worker=worker.index, host=worker.host.index, replayed=len(thetas))
        worker.life += 1
        arguments = (worker.index, worker.life, worker.seed, worker.snapshot, worker.number, *thetas)
        worker.host.process.call("settle", *arguments)  # if that fails the estimate does
        return len(thetas)

    def _loads(self) -> Counter[int]:
        return Counter(worker.host.index for worker in self.workers if worker.host is not None)

    def _balance(self) -> None:
        """Idle workers leave crowded hosts for those that have joined."""
        while living := self.fleet.living:
            loads = self._loads()
            least, most = (pick(living, key=lambda host: loads[host.index]) for pick in (min, max))
            idle = [worker for worker in self.workers if worker.host is most and worker.call is None]
            if loads[most.index] - loads[least.index] < 2 or not idle:
                return
            worker = idle[-1]
            (worker.snapshot,), worker.since, worker.host = self._ask([worker], "state"), [], None

    def _ask(self, workers: Sequence[_Worker], method: str) -> list[dict[str, Any]]:
        """What a method tells of each worker, which is made again first if its host is lost meanwhile."""
        told: dict[int, dict[str, Any]] = {}
        while missing := [worker for worker in workers if worker.index not in told]:
            calls = []
            for worker in missing:
                self._settle(worker)
                assert worker.host is not None
                calls.append((worker, worker.host, worker.host.process.call(method, worker.index, worker.life)))
            for worker, host, call in calls:
                if worker.host is not host:
                    continue  # lost meanwhile
                try:
                    if not self.backend.wait([call], self.timeout):
                        host.process.kill()
                        raise HostLostError("took too long")
                    told[worker.index] = call.result()
                except HostLostError as error:
                    self._lose(host, str(error))
        return [told[worker.index] for worker in workers]

    def _note(self, kind: str, **facts: Any) -> None:
        self.counts[kind] += 1
        self._events.append({"event": kind, **facts})


COUNTED = ("lost", "joined", "moved", "replayed", "discarded", "begun_anew", "timeouts")
"""What the dashboard shows of a pool."""

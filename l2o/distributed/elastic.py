"""A pool whose processes come and go, while its workers, and with them the numbers, stay.

Workers and hosts are two things. A worker is a generator and half-trained problems: a value, that can be made again
anywhere from its last snapshot and the thetas of its estimates since. A host is a process where workers live. When a
host is lost its workers move to others, are brought back to where they were, and their estimates are asked for again;
when one joins, workers move there. So a step gives the same estimates whatever happens to hosts, and each once.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from l2o.distributed.fleet import ATTEMPTS, Fleet, Member
from l2o.distributed.hosts import Backend, Call, HostLostError, Reply, SettleError, WorkerError
from l2o.distributed.pool import Estimate, WorkerPool, saved_workers
from l2o.distributed.roster import Record, Rules
from l2o.types import Theta

LINGER, MANY = 0.01, 32
"""Seconds in which answers are collected, of more than so many workers, so that not each is seen to by itself."""

DEATHS = 8
"""Processes that die in a row while they are at one estimate, before its worker begins anew."""

START = 60.0
"""Seconds that the first step waits for the last hosts, so that not all workers begin in the first."""

PAUSE = 1.0
"""Seconds between calls of the pool after which hosts may have died unseen, which is then nobody's fault."""

COUNTED = ("lost", "joined", "moved", "replayed", "discarded", "begun_anew", "timeouts")
"""What the dashboard shows of a pool."""


class ElasticPool(WorkerPool):
    """Workers in the hosts of a backend.

    With `quorum` None a step waits for every worker and equals that of a `LocalPool` with the same seed. With a smaller
    one it takes the estimates of the first so many; the others go on with the theta they have.

    Arguments:
        backend: where hosts come from.
        num_workers: independent estimates; worker i starts from seed + i.
        num_hosts: processes to ask for; one a worker if None. More than there is room for are waited for meanwhile.
        rules: see `Rules`.

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
        rules: Rules | None = None,
    ) -> None:
        rules = rules or Rules()
        rules.check(num_workers)
        if num_hosts is not None and num_hosts < 1:
            raise ValueError(f"num_hosts must be at least 1, or None for one a worker; got {num_hosts}.")
        self.backend, self.rules = backend, rules
        self.counts: Counter[str] = Counter()
        self._events: deque[dict[str, Any]] = deque(maxlen=10000)
        self.workers = [Record(i, seed + i, seed + i) for i in range(num_workers)]
        self.fleet = Fleet(backend, num_workers if num_hosts is None else num_hosts, self._note)
        self.version = 0
        self._thetas: dict[int, Any] = {}
        self._answers: list[tuple[Record, int, int, Reply]] = []  # worker, number, version; not yet used in a step
        self._raised: list[BaseException] = []
        self._staleness = 0.0
        self._left = self._back = backend.now()

    # what a trainer asks for

    def estimate(self, theta: Theta) -> list[Estimate]:
        self._return()
        self.version += 1
        sent = {name: value.detach().cpu().clone() for name, value in theta.items()}
        self._thetas[self.version], self._raised = self.backend.put(sent), []
        self.fleet.gather(min(self.rules.timeout, START) if self.version == 1 else 0.0)
        self._balance()
        found: list[Estimate] = []
        self._use(found)
        for worker in self.workers:
            if worker.call is None:
                self._send(worker, self.version)
        quorum = self.rules.quorum or len(self.workers)
        while len(found) < quorum and any(worker.call is not None for worker in self.workers):
            self._hear()
            self._use(found)
        if not found:
            raise self._raised[0]
        self._staleness = sum(estimate.staleness for estimate in found) / len(found)
        self._forget()
        self._left = self.backend.now()
        return sorted(found, key=lambda estimate: estimate.worker)

    def state_dict(self) -> dict[str, Any]:
        """State of all workers. With a quorum it waits for what they are at, which the next step then uses."""
        self._return()
        while any(worker.call is not None for worker in self.workers):
            self._hear()
        self._refresh(self.workers)
        self._left = self.backend.now()
        return {"workers": [{**(worker.snapshot or {}), "anew": worker.anew} for worker in self.workers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for worker, one in zip(self.workers, saved_workers(state, len(self.workers)), strict=True):
            worker.snapshot, worker.since, worker.number = one, [], one.get("number", 0)
            worker.anew, worker.tries, worker.deaths = one.get("anew", 0), 0, 0
            worker.host, worker.call = None, None
        for host in self.fleet.members:
            host.queue.clear()
        self._answers.clear()
        self._forget()

    def metrics(self) -> dict[str, float]:
        """Hosts, restarts and the like; seconds of an estimate by worker (the first 16) and of the slowest."""
        told: dict[str, float] = {name: float(self.counts[name]) for name in COUNTED}
        told |= {"hosts": float(len(self.fleet.living)), "staleness": self._staleness}
        told["seconds/slowest"] = max(worker.seconds for worker in self.workers)
        return told | {f"seconds/worker_{worker.index}": worker.seconds for worker in self.workers[:16]}

    def events(self) -> list[dict[str, Any]]:
        told = list(self._events)
        self._events.clear()
        return told

    def close(self) -> None:
        self.backend.close()

    # questions and answers

    def _send(self, worker: Record, version: int | None) -> None:
        """Ask for an estimate, or for the state; the worker is made where it is to live, if it lives nowhere."""
        self._settle(worker)
        assert worker.host is not None
        if version is None:
            call = worker.host.process.call("state", worker.index, worker.life)
        else:
            with_state = (worker.number + 1 + worker.index) % self.rules.snapshot_every == 0
            theta = self._thetas[version]
            call = worker.host.process.call("estimate", worker.index, worker.life, theta, with_state)
        worker.call, worker.version = call, version
        if not worker.host.queue:
            worker.host.turned = self.backend.now()
        worker.host.queue.append(worker)

    def _hear(self) -> None:
        """Wait for answers and take them; see to hosts that come, are lost, or take too long."""
        asked = {worker.call: worker for worker in self.workers if worker.call is not None}
        busy = [host for host in self.fleet.members if host.queue]
        left = min(map(self._deadline, busy)) - self.backend.now()
        done = self.backend.wait([*asked, *self.fleet.awaited()], max(0.0, left), LINGER if len(asked) > MANY else 0.0)
        self.fleet.greet(done)
        for call in sorted((call for call in done if call in asked), key=lambda call: asked[call].index):
            if asked[call].call is call:  # not one that was void by the time, because its host was lost
                self._take(asked[call], call)
        for host in busy:
            if host.queue and host.ready is None and self._deadline(host) <= self.backend.now():
                self._interrupt(host)

    def _take(self, worker: Record, call: Call) -> None:
        host = worker.host
        assert host is not None
        try:
            answer = call.result()
        except HostLostError as error:
            self._lose(host, str(error), blame=host.heard >= self._back)
            return
        except WorkerError as error:
            self._answered(worker, host)
            self._fail(worker, error.__cause__ or error)
            return
        self._answered(worker, host)
        if worker.version is None:
            worker.snapshot, worker.since = answer, []
            return
        reply: Reply = answer
        worker.tries, worker.deaths, worker.anew, worker.seconds = 0, 0, 0, reply.seconds
        worker.number += 1
        if reply.state is None:
            worker.since.append(worker.version)
        else:
            worker.snapshot, worker.since = reply.state, []
        self._answers.append((worker, worker.number, worker.version, reply))

    def _answered(self, worker: Record, host: Member) -> None:
        host.queue.remove(worker)
        host.heard = host.turned = self.backend.now()
        worker.call = None

    def _use(self, found: list[Estimate]) -> None:
        """Put the answers into a step, but for those that come too late."""
        answers, self._answers = self._answers, []
        for worker, number, version, reply in answers:
            staleness = self.version - version
            if staleness <= self.rules.max_staleness:
                weight = 1.0 / (1 + staleness) if self.rules.late == "downweight" else 1.0
                found.append(Estimate(reply.gradient, worker.index, number, staleness, weight, reply.seconds))
                continue
            self._note("discarded", worker=worker.index, number=number, staleness=staleness)
            if worker.call is None:
                self._send(worker, self.version)

    # what goes wrong

    def _fail(self, worker: Record, why: BaseException) -> None:
        """Fresh problems for a worker whose task raises; another try for one that could not be made."""
        if not isinstance(why, SettleError):
            self._begin_anew(worker, why)
            return
        worker.tries, worker.host = worker.tries + 1, None
        if worker.tries >= ATTEMPTS:
            raise why.__cause__ or why
        self._send(worker, worker.version)

    def _begin_anew(self, worker: Record, why: BaseException) -> None:
        """A worker whose problems cannot be gone on with gets fresh ones, and misses this step."""
        self._note("begun_anew", worker=worker.index, number=worker.number, why=f"{type(why).__name__}: {why}")
        self._raised.append(why)
        worker.anew += 1
        if worker.anew >= ATTEMPTS:
            raise why
        worker.seed = random.Random(f"{worker.first} {worker.number} {worker.anew}").getrandbits(31)
        worker.host, worker.call, worker.snapshot, worker.since = None, None, None, []
        worker.tries, worker.deaths = 0, 0

    def _lose(self, host: Member, why: str, blame: bool) -> None:
        """A host is gone: ask for it anew, and let its workers go on elsewhere, at the same thetas.

        Arguments:
            blame: whether the worker that it was at may have been the cause.
        """
        queue = host.queue
        self.fleet.lost(host, why)
        for worker in self.workers:
            if worker.host is host:
                worker.host = None
        if blame and queue:
            queue[0].deaths += 1
            if queue[0].deaths >= DEATHS:
                told = f"worker {queue[0].index} has cost {DEATHS} processes their life, one after the other: {why}"
                self._begin_anew(queue[0], RuntimeError(told))
        for worker in queue:
            if worker.call is not None:
                worker.call = None
                self._send(worker, worker.version)

    def _interrupt(self, host: Member) -> None:
        """End a host that takes too long; the worker that it is at begins anew if it does so again and again."""
        worker = host.queue[0]
        worker.tries += 1
        self._note("timeouts", worker=worker.index, number=worker.number + 1)
        host.process.kill()
        if worker.tries >= ATTEMPTS:
            told = (
                f"an estimate must come within {self.rules.timeout} s; that of worker {worker.index} did not, thrice."
            )
            self._begin_anew(worker, TimeoutError(told))
        self._lose(host, "took too long", blame=False)

    def _deadline(self, host: Member) -> float:
        return host.turned + self.rules.timeout * (1 + host.queue[0].replays)

    def _return(self) -> None:
        """Note when the pool is turned to again after a pause, in which nobody watched the hosts."""
        if self.backend.now() - self._left > PAUSE:
            self._back = self.backend.now()

    # where workers live

    def _settle(self, worker: Record) -> None:
        """Make a worker at the living host with fewest, unless it lives somewhere."""
        worker.replays = 0
        if worker.host is not None:
            return
        host = worker.host = self.fleet.roomiest(self._loads(), self.rules.timeout)
        thetas = [self._thetas[version] for version in worker.since]
        worker.life, worker.replays = worker.life + 1, len(thetas)
        self.counts["replayed"] += len(thetas)
        if worker.snapshot is not None or thetas:
            self._note("moved", worker=worker.index, host=host.index, replayed=len(thetas))
        here = tuple(other.index for other in self.workers if other.host is host)
        arguments = (worker.index, worker.life, here, worker.seed, worker.snapshot, worker.number, *thetas)
        host.process.call("settle", *arguments)  # if that fails, what is asked next does

    def _loads(self) -> Counter[int]:
        return Counter(worker.host.index for worker in self.workers if worker.host is not None)

    def _balance(self) -> None:
        """Idle workers leave crowded hosts for those that have joined."""
        loads, movers = self._loads(), []
        room = {host.index: loads[host.index] for host in self.fleet.living}
        homeless = sum(worker.host is None for worker in self.workers)
        for worker in reversed(self.workers):
            if worker.host is None or worker.call is not None or worker.host.index not in room:
                continue
            least = min(room, key=lambda index: room[index])
            if room[worker.host.index] - room[least] - homeless >= 2:
                room[worker.host.index] -= 1
                room[least] += 1
                movers.append(worker)
        self._refresh(movers)
        for worker in movers:
            worker.host = None

    def _refresh(self, workers: Iterable[Record]) -> None:
        """Bring the snapshots of idle workers up to date."""
        while stale := [worker for worker in workers if worker.since or worker.snapshot is None]:
            for worker in stale:
                if worker.call is None:
                    self._send(worker, None)
            self._hear()

    def _forget(self) -> None:
        """Drop the thetas that nobody will be brought back with."""
        needed = {self.version} | {version for worker in self.workers for version in worker.since}
        needed |= {worker.version for worker in self.workers if worker.call is not None and worker.version is not None}
        self._thetas = {version: theta for version, theta in self._thetas.items() if version in needed}

    def _note(self, kind: str, **facts: Any) -> None:
        self.counts[kind] += 1
        self._events.append({"event": kind, **facts})

"""The hosts of a pool: who is there, who is waited for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from l2o.distributed.hosts import Backend, Call, Host, HostLostError, WorkerError

ATTEMPTS = 3
"""Failures in a row, of a host to start or of a worker to estimate, that are borne."""


@dataclass(eq=False)
class Member:
    """A host of the fleet.

    ready: what it has been asked to show that it is there; None once it has.
    failures: to start, in a row.
    queue: the workers that have asked it for something, in order; it is at the first.
    turned: when it turned to that one; heard: when it last answered.
    """

    process: Host
    index: int
    ready: Call | None
    failures: int = 0
    queue: list[Any] = field(default_factory=list)
    turned: float = 0.0
    heard: float = 0.0


class Fleet:
    """The hosts of a pool.

    Arguments:
        backend: where they come from.
        num_hosts: how many to ask for; what there is no room for is waited for.
        note: told of what happens: a kind, and facts.
    """

    def __init__(self, backend: Backend, num_hosts: int, note: Callable[..., None]) -> None:
        self.backend, self.note = backend, note
        processes = [backend.start() for _ in range(num_hosts)]
        self.members = [Member(process, i, process.call("ready")) for i, process in enumerate(processes)]

    @property
    def living(self) -> list[Member]:
        """The hosts that are there."""
        return [host for host in self.members if host.ready is None]

    def awaited(self) -> dict[Call, Member]:
        """The others, by what they have been asked."""
        return {host.ready: host for host in self.members if host.ready is not None}

    def gather(self, seconds: float) -> None:
        """Wait so long for those that are not there; with 0 only see who has come."""
        until = self.backend.now() + seconds
        while awaited := self.awaited():
            done = self.backend.wait([*awaited], max(0.0, until - self.backend.now()))
            if not done:
                return
            self.greet(done)

    def greet(self, done: Sequence[Call]) -> None:
        """See to the hosts among answered calls; those that fail to start again and again are given up.

        Raises:
            RuntimeError: none is left.
        """
        awaited = self.awaited()
        for call in done:
            if call not in awaited:
                continue
            host = awaited[call]
            try:
                call.result()
                host.ready, host.failures, host.heard = None, 0, self.backend.now()
                self.note("joined", host=host.index)
            except (HostLostError, WorkerError) as error:
                host.failures += 1
                host.ready = host.process.call("ready")
                if host.failures >= ATTEMPTS:
                    self.note("given_up", host=host.index, why=str(error))
                    self.members.remove(host)
                if not self.members:
                    raise RuntimeError(f"a pool needs a host that can start; none could: {error}") from error

    def lost(self, host: Member, why: str) -> None:
        """A host is gone, and waited for."""
        host.queue = []
        if host.ready is None:
            self.note("lost", host=host.index, why=why)
            host.ready = host.process.call("ready")

    def roomiest(self, loads: Mapping[int, int], timeout: float) -> Member:
        """The living host with the fewest workers; waited for, if none is alive.

        Raises:
            RuntimeError: for `timeout` seconds none was.
        """
        until = self.backend.now() + timeout
        while not self.living:
            done = self.backend.wait([*self.awaited()], max(0.0, until - self.backend.now()))
            if not done:
                raise RuntimeError(f"a pool needs a living host; {timeout} s have passed without one.")
            self.greet(done)
        return min(self.living, key=lambda host: (loads.get(host.index, 0), host.index))

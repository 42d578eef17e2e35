"""Hosts without processes, on a clock of their own: how a pool fares under delays and deaths, without waiting for them.

What is asked of a worker is done, here and at once; when it is answered, and whether its host lives so long, is drawn.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from l2o.distributed.hosts import Backend, Call, Host, HostLostError, Residents, WorkerError

Draw = Callable[[random.Random], float]
"""Seconds, drawn."""


def never(generator: random.Random) -> float:
    """No end."""
    return math.inf


class SimulatedBackend(Backend):
    """Hosts that live in this process.

    Arguments:
        make: the residents of a host, when it starts and starts again.
        delay: of an estimate.
        life: of a host, until it dies.
        restart: until a host that has died or begins is there.
        seed: of all draws.
    """

    def __init__(
        self,
        make: Callable[[], Residents],
        delay: Draw = lambda generator: 1.0,
        life: Draw = never,
        restart: Draw = lambda generator: 5.0,
        seed: int = 0,
    ) -> None:
        self.make, self.delay, self.life, self.restart = make, delay, life, restart
        self.generator = random.Random(seed)
        self.clock = 0.0
        self.hosts: list[SimulatedHost] = []

    def now(self) -> float:
        return self.clock

    def start(self) -> SimulatedHost:
        self.hosts.append(SimulatedHost(self))
        return self.hosts[-1]

    def put(self, value: Any) -> Any:
        return value

    def wait(self, calls: Sequence[Call], timeout: float, linger: float = 0.0) -> list[Call]:
        asked = [call for call in calls if isinstance(call, SimulatedCall)]
        first = min((call.at for call in asked), default=math.inf)
        until = self.clock + timeout
        if first > until:
            if math.isfinite(until):
                self.clock = until
            return []
        self.clock = max(self.clock, first)
        if linger:
            self.clock += linger
        return [call for call in asked if call.at <= self.clock]

    def close(self) -> None:
        self.hosts = []


class SimulatedHost(Host):
    """A host with a birth and a death."""

    def __init__(self, backend: SimulatedBackend) -> None:
        self.backend = backend
        self._be_born(backend.now())

    def _be_born(self, asked: float) -> None:
        draw = self.backend.generator
        self.residents = self.backend.make()
        self.born = self.busy_until = asked + self.backend.restart(draw)
        self.dies = self.born + self.backend.life(draw)

    def _see_to_death(self) -> None:
        while self.dies <= self.backend.now():
            self._be_born(self.dies)

    def call(self, method: str, *args: Any) -> SimulatedCall:
        self._see_to_death()
        now = self.backend.now()
        clock = self.backend.now
        if method == "ready":
            return SimulatedCall(clock, max(now, self.born), True)
        if now < self.born:
            return SimulatedCall(clock, now, HostLostError("it has died and is not back"))
        began = max(now, self.busy_until)
        estimates = {"estimate": 1, "settle": max(0, len(args) - 6)}.get(method, 0)
        ends = began + sum(self.backend.delay(self.backend.generator) for _ in range(estimates))
        if ends > self.dies:
            self.busy_until = math.inf  # what is asked after this dies with it
            return SimulatedCall(clock, self.dies, HostLostError("it died"))
        self.busy_until = ends
        try:
            return SimulatedCall(clock, ends, getattr(self.residents, method)(*args))
        except HostLostError as error:
            return SimulatedCall(clock, ends, error)
        except Exception as error:
            told = WorkerError(str(error))
            told.__cause__ = error
            return SimulatedCall(clock, ends, told)

    def kill(self) -> None:
        """Dies now."""
        self._see_to_death()
        if self.born <= self.backend.now():
            self._be_born(self.backend.now())


class SimulatedCall(Call):
    """An answer, and when it comes."""

    def __init__(self, clock: Callable[[], float], at: float, answer: Any) -> None:
        self.clock, self.at, self.answer = clock, at, answer

    def result(self) -> Any:
        if self.clock() < self.at:
            raise AssertionError(f"an answer of {self.at} s was taken at {self.clock()} s")
        if isinstance(self.answer, HostLostError | WorkerError):
            raise self.answer
        return self.answer

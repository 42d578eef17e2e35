"""A pool whose hosts die, are late, hang and join: the same estimates as a local one, each once."""

import math
import random
from typing import Any

import pytest
import torch
from torch import Generator

from l2o.distributed import Estimate, LocalPool
from l2o.distributed.elastic import ElasticPool
from l2o.distributed.hosts import HostLostError, Residents
from l2o.distributed.pool import Worker
from l2o.distributed.roster import Rules
from l2o.distributed.simulated import SimulatedBackend, SimulatedHost
from l2o.estimators import PES, Problems, Truncation
from l2o.estimators.base import GradientEstimator, MetaGradient
from l2o.rules import MLPRule
from l2o.tasks.quadratic import Quadratics
from l2o.training.meta_trainer import MetaTrainer, theta_of
from l2o.types import Theta

THETA = {"w": torch.zeros(3)}


class Walk(GradientEstimator):
    """Its gradient tells its whole past: a sum of noise and of every theta that it was asked at."""

    def init(self, theta: Theta, generator: Generator) -> Any:
        return torch.randn(3, generator=generator)

    def estimate(self, theta: Theta, state: Any, generator: Generator) -> tuple[MetaGradient, Any]:
        state = 0.9 * state + theta["w"] + torch.randn(3, generator=generator)
        return MetaGradient({"w": state}, state.sum(), {}), state


class Breaks(Walk):
    """Raises at every draw below a share."""

    def __init__(self, share: float) -> None:
        self.share = share

    def estimate(self, theta: Theta, state: Any, generator: Generator) -> tuple[MetaGradient, Any]:
        if torch.rand((), generator=generator) < self.share:
            raise ArithmeticError("this task cannot be trained")
        return super().estimate(theta, state, generator)


def simulated(estimator: GradientEstimator | None = None, **settings: Any) -> SimulatedBackend:
    return SimulatedBackend(lambda: Residents(estimator or Walk(), THETA), **settings)


def elastic(
    backend: SimulatedBackend, num_workers: int, seed: int = 0, num_hosts: int | None = None, **rules: Any
) -> ElasticPool:
    return ElasticPool(backend, num_workers, seed, num_hosts, Rules(**rules))


def trained(pool: Any, steps: int, theta: Theta = THETA) -> tuple[list[list[Estimate]], Theta]:
    """A few outer steps, each theta made of the last estimates."""
    told = []
    for _ in range(steps):
        found = pool.estimate(theta)
        mean = torch.stack([one.gradient.grads["w"] for one in found]).mean(0)
        theta = {"w": theta["w"] - 0.1 * mean}
        told.append(found)
    return told, theta


@pytest.mark.parametrize("seed", range(8))
def test_whatever_hosts_do_a_step_is_that_of_a_local_pool(seed: int) -> None:
    _, expected = trained(LocalPool(Walk(), THETA, 5, seed=3), 60)
    backend = simulated(
        delay=lambda g: g.uniform(0.5, 2.0), life=lambda g: g.expovariate(1 / 20), restart=lambda g: 8.0, seed=seed
    )
    pool = elastic(backend, 5, seed=3, snapshot_every=4)
    told, theta = trained(pool, 60)
    assert torch.equal(theta["w"], expected["w"])
    assert [[one.worker for one in found] for found in told] == [list(range(5))] * 60
    assert [[one.number for one in found] for found in told] == [[k + 1] * 5 for k in range(60)]
    assert pool.counts["lost"] > 5 and pool.counts["replayed"] > 5
    assert len(pool._thetas) <= 2 * 4  # no more than can be asked for again


def test_a_real_estimator_goes_on_where_its_host_died() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rule = MLPRule()
    estimator = PES(Problems(rule, Quadratics(4), num_tasks=2, copies=1, truncation=Truncation(2, 6)))
    theta = theta_of(rule)
    backend = SimulatedBackend(lambda: Residents(estimator, theta), life=lambda g: g.uniform(3.0, 9.0))
    pool, local = elastic(backend, 2, seed=1, snapshot_every=3), LocalPool(estimator, theta, 2, seed=1)
    for _ in range(12):
        for a, b in zip(pool.estimate(theta), local.estimate(theta), strict=True):
            assert all(torch.equal(a.gradient.grads[name], b.gradient.grads[name]) for name in theta)
    assert pool.counts["lost"] > 0


def test_workers_move_to_hosts_that_join_and_leave_those_that_go() -> None:
    starts = iter([0.0, 0.0, 45.0, 60.0])
    backend = simulated(restart=lambda g: next(starts, math.inf))
    pool = elastic(backend, 4, snapshot_every=100, timeout=50.0)
    pool.version = 1  # a pool that runs does not wait for all
    told, _ = trained(pool, 10)
    assert pool.metrics()["hosts"] == 2.0
    backend.hosts[0].dies = backend.now() + 0.5
    trained(pool, 40)
    loads = pool._loads()
    assert loads == {1: 2, 2: 1, 3: 1} or loads == {1: 1, 2: 2, 3: 1} or loads == {1: 1, 2: 1, 3: 2}
    local = LocalPool(Walk(), THETA, 4)
    for ours, theirs in zip(told[-1], trained(local, 10)[0][-1], strict=True):
        assert torch.equal(ours.gradient.loss, theirs.gradient.loss)


def test_state_goes_from_a_pool_to_another_while_hosts_die() -> None:
    backend = simulated(life=lambda g: g.expovariate(1 / 6), restart=lambda g: 2.0, seed=5)
    pool, local = elastic(backend, 3, snapshot_every=4), LocalPool(Walk(), THETA, 3)
    for _ in range(15):
        trained(pool, 3)
        trained(local, 3)
        ours, theirs = pool.state_dict()["workers"], local.state_dict()["workers"]
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a["state"], b["state"]) and a["number"] == b["number"]
            assert torch.equal(a["generator"], b["generator"])
    pool.load_state_dict(
        {"workers": [dict(one) for one in LocalPool(Walk(), THETA, 3, seed=9).state_dict()["workers"]]}
    )
    fresh = trained(LocalPool(Walk(), THETA, 3, seed=9), 5)[1]
    assert torch.equal(trained(pool, 5)[1]["w"], fresh["w"])
    with pytest.raises(ValueError, match="number of workers"):
        pool.load_state_dict({"workers": ours[:2]})


def test_a_quorum_does_not_wait_and_what_is_too_late_is_thrown_away() -> None:
    def slow(generator: random.Random) -> float:
        return 10.0 if generator.random() < 0.1 else 1.0

    pool = elastic(simulated(delay=slow, seed=2), 8, quorum=6, max_staleness=3, late="downweight")
    told, _ = trained(pool, 100)
    assert pool.backend.now() < 300  # waiting for all takes about 600
    assert all(len(found) >= 6 for found in told)
    stale = [one for found in told for one in found if one.staleness]
    assert stale and all(one.staleness <= 3 and one.weight == 1 / (1 + one.staleness) for one in stale)
    assert pool.counts["discarded"] > 0
    numbers = [(one.worker, one.number) for found in told for one in found]
    discarded = [(event["worker"], event["number"]) for event in pool.events() if event["event"] == "discarded"]
    assert len(set(numbers + discarded)) == len(numbers) + len(discarded)
    for worker in range(8):  # and none is lost
        of_worker = sorted(number for w, number in numbers + discarded if w == worker)
        assert of_worker == list(range(1, len(of_worker) + 1))


class Hangs(SimulatedBackend):
    """Estimate `number` of worker 1 hangs, the first `times` that it is asked for; all others take a second."""

    def __init__(self, number: int, times: int, seconds: float = math.inf) -> None:
        super().__init__(lambda: Residents(Walk(), THETA))
        self.number, self.times, self.seconds = number, times, seconds

    def start(self) -> SimulatedHost:
        self.hosts.append(HangingHost(self))
        return self.hosts[-1]


class HangingHost(SimulatedHost):
    def call(self, method: str, *args: Any) -> Any:
        backend = self.backend
        assert isinstance(backend, Hangs)
        made = self.residents.workers.get((1, args[1])) if method == "estimate" and args[0] == 1 else None
        hangs = isinstance(made, Worker) and made.number == backend.number - 1 and backend.times > 0
        backend.times -= hangs
        backend.delay = (lambda g: backend.seconds) if hangs else (lambda g: 1.0)
        return super().call(method, *args)


@pytest.mark.parametrize("num_hosts", [1, 2])
def test_a_host_that_hangs_is_ended_and_its_worker_goes_on(num_hosts: int) -> None:
    pool = elastic(Hangs(4, times=2), 2, num_hosts=num_hosts, timeout=30.0)
    _, theta = trained(pool, 10)
    assert torch.equal(theta["w"], trained(LocalPool(Walk(), THETA, 2), 10)[1]["w"])
    assert pool.counts["timeouts"] == 2 and pool.counts["begun_anew"] == 0


def test_a_worker_that_always_hangs_begins_anew() -> None:
    pool = elastic(Hangs(4, times=3), 2, timeout=30.0)
    told, _ = trained(pool, 10)
    assert pool.counts["begun_anew"] == 1
    assert [len(found) for found in told] == [2, 2, 2, 1, 2, 2, 2, 2, 2, 2]
    assert told[4][1].number == 4  # the number that was not given out


def test_with_a_quorum_a_checkpoint_of_a_worker_that_hangs_ends_too() -> None:
    pool = elastic(Hangs(2, times=3), 3, quorum=2, max_staleness=9, timeout=30.0)
    trained(pool, 3)
    assert len(pool.state_dict()["workers"]) == 3 and pool.counts["timeouts"] == 3


@pytest.mark.parametrize("num_workers, num_hosts, survivors", [(8, 8, 1), (4, 4, 1), (6, 3, 1), (16, 4, 1)])
@pytest.mark.parametrize("share", [0.2, 0.8])
def test_many_workers_on_the_last_host_are_given_their_time(
    num_workers: int, num_hosts: int, survivors: int, share: float
) -> None:
    backend = simulated(delay=lambda g: 10.0 * share)
    pool = elastic(backend, num_workers, num_hosts=num_hosts, timeout=10.0, snapshot_every=5)
    _, theta = trained(pool, 8)
    for host in backend.hosts[survivors:]:
        host.dies, backend.restart = backend.now() + 1.0, lambda g: 1e6
    _, theta = trained(pool, 4, theta)
    expected = trained(LocalPool(Walk(), THETA, num_workers), 12)[1]
    assert torch.equal(theta["w"], expected["w"])
    assert pool.counts["timeouts"] == pool.counts["begun_anew"] == 0
    assert len(pool.state_dict()["workers"]) == num_workers


def test_hosts_that_died_during_a_pause_are_no_worker_s_fault() -> None:
    backend = simulated()
    pool, local = elastic(backend, 12, snapshot_every=20), LocalPool(Walk(), THETA, 12)
    for _ in range(2):
        _, ours = trained(pool, 3)
        _, theirs = trained(local, 3)
        assert torch.equal(ours["w"], theirs["w"])
        backend.clock += 1000.0
        for host in backend.hosts:
            host.dies = backend.clock - 100.0
    assert pool.state_dict()["workers"][0]["number"] == 6
    assert pool.counts["begun_anew"] == 0


class Deadly(Walk):
    """What worker 1 does ends its process."""

    def estimate(self, theta: Theta, state: Any, generator: Generator) -> tuple[MetaGradient, Any]:
        if generator.initial_seed() == 1:
            raise HostLostError("segmentation fault")
        return super().estimate(theta, state, generator)


def test_a_worker_that_ends_its_process_again_and_again_begins_anew() -> None:
    pool = elastic(simulated(Deadly()), 3)
    assert [len(found) for found in trained(pool, 4)[0]] == [2, 3, 3, 3]
    assert "has cost 8 processes" in next(e["why"] for e in pool.events() if e["event"] == "begun_anew")


class Unmade(Walk):
    def init(self, theta: Theta, generator: Generator) -> Any:
        raise FileNotFoundError("no data on this machine")


def test_a_worker_that_cannot_be_made_is_told() -> None:
    with pytest.raises(FileNotFoundError, match="no data on this machine"):
        elastic(simulated(Unmade()), 2).estimate(THETA)

    class Other(Walk):
        def init(self, theta: Theta, generator: Generator) -> Any:
            return (torch.zeros(1),)

    pool = elastic(simulated(), 2)
    pool.load_state_dict(LocalPool(Other(), THETA, 2).state_dict())
    with pytest.raises(ValueError, match="resumes with the estimator it was saved with"):
        pool.estimate(THETA)


@pytest.mark.parametrize("seed", range(4))
def test_a_run_whose_workers_began_anew_resumes_exactly(seed: int) -> None:
    whole = elastic(simulated(Breaks(0.03), seed=seed), 6, seed=seed)
    trained(whole, 15)
    saved = whole.state_dict()
    resumed = elastic(simulated(Breaks(0.03), seed=seed + 50), 6, seed=seed)
    resumed.load_state_dict(saved)
    assert whole.counts["begun_anew"] > 0
    assert torch.equal(trained(whole, 25)[1]["w"], trained(resumed, 25)[1]["w"])


def test_processes_forget_workers_that_have_moved() -> None:
    backend = simulated(life=lambda g: g.expovariate(1 / 40), restart=lambda g: 5.0)
    pool = elastic(backend, 12, num_hosts=4)
    trained(pool, 100)
    assert max(len(host.residents.workers) for host in backend.hosts) <= 12
    assert sum(len(host.residents.workers) for host in backend.hosts) <= 20


def test_a_trainer_that_changes_theta_in_place_is_no_harm() -> None:
    rule = torch.nn.Linear(3, 1, bias=False)
    finals = []
    dying = SimulatedBackend(lambda: Residents(Row(), THETA), life=lambda g: g.expovariate(1 / 10))
    for pool in (LocalPool(Row(), THETA, 3), elastic(dying, 3)):
        with torch.no_grad():
            rule.weight.zero_()
        trainer = MetaTrainer(rule, pool, torch.optim.SGD(rule.parameters(), lr=0.1), max_grad_norm=None)
        for _ in range(30):
            trainer.step()
        finals.append(rule.weight.detach().clone())
    assert isinstance(pool, ElasticPool) and torch.equal(*finals) and pool.counts["replayed"] > 0


class Row(Walk):
    def estimate(self, theta: Theta, state: Any, generator: Generator) -> tuple[MetaGradient, Any]:
        gradient, state = super().estimate({"w": theta["weight"][0]}, state, generator)
        return gradient._replace(grads={"weight": gradient.grads["w"].unsqueeze(0)}), state


def test_a_task_that_raises_costs_its_worker_one_estimate() -> None:
    pool = elastic(simulated(Breaks(0.04)), 6)
    told, _ = trained(pool, 50)
    anew = [event for event in pool.events() if event["event"] == "begun_anew"]
    assert len(anew) == 6 * 50 - sum(len(found) for found in told) > 5
    assert "this task cannot be trained" in anew[0]["why"]
    losses = [one.gradient.loss.item() for found in told for one in found]
    assert len(set(losses)) == len(losses)  # problems are fresh ones


def test_what_all_workers_raise_or_one_again_and_again_is_raised() -> None:
    with pytest.raises(ArithmeticError, match="cannot be trained"):
        elastic(simulated(Breaks(1.1)), 3).estimate(THETA)

    class OneBreaks(Walk):
        def estimate(self, theta: Theta, state: Any, generator: Generator) -> tuple[MetaGradient, Any]:
            if generator.initial_seed() not in (0, 2):
                raise ArithmeticError("worker 1")
            return super().estimate(theta, state, generator)

    pool = elastic(simulated(OneBreaks()), 3)
    assert [len(pool.estimate(THETA)) for _ in range(2)] == [2, 2]
    with pytest.raises(ArithmeticError, match="worker 1"):
        pool.estimate(THETA)


def test_without_any_host_a_step_does_not_wait_forever() -> None:
    with pytest.raises(RuntimeError, match="living host"):
        elastic(simulated(restart=lambda g: math.inf), 2, timeout=30.0).estimate(THETA)


@pytest.mark.parametrize(
    "settings", [{"quorum": 0}, {"quorum": 4}, {"timeout": 0.0}, {"snapshot_every": 0}, {"max_staleness": -1}]
)
def test_bad_settings_are_told(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        elastic(simulated(), 3, **settings)

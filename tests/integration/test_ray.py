"""Real Ray: its workers give the numbers of local ones, whatever dies."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import l2o
from l2o.agents.proposers.recursion import Island, both
from l2o.cli import main
from l2o.distributed import LocalPool
from l2o.distributed.ray_pool import RayPool
from l2o.distributed.roster import Rules
from l2o.estimators import PES, Episodic, Problems, Truncation
from l2o.estimators.base import GradientEstimator, MetaGradient
from l2o.learners import MAML, MLP, Adaptation
from l2o.rules import SGD, MLPRule
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.tasks.quadratic import Quadratics
from l2o.training.ledger import audit
from l2o.training.meta_trainer import theta_of
from l2o.types import Theta
from tests.integration.ray_marks import MARKS

ray = pytest.importorskip("ray")
pytestmark = MARKS


@pytest.fixture(scope="module", autouse=True)
def _shut_down() -> Iterator[None]:
    yield
    ray.shutdown()


def make(kind: str) -> tuple[torch.nn.Module, GradientEstimator]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "learner":
            adaptation = Adaptation(MAML(MLP([16, 8, 5])), SGD(0.1), 2)
            return adaptation, Episodic(adaptation, GaussianClasses(), 3)
        rule = MLPRule()
        estimator = PES(Problems(rule, Quadratics(4), num_tasks=2, copies=1, truncation=Truncation(2, 4)))
        return rule, Island(estimator, num_steps=2, spread=2.0) if kind == "island" else estimator


@pytest.mark.parametrize("kind", ["learner", "rule", "island"])
def test_two_workers_of_ray_are_two_local_ones(kind: str) -> None:
    module, estimator = make(kind)
    theta = theta_of(module)
    theta = both(theta, theta, 1.0) if kind == "island" else theta
    local, remote = LocalPool(estimator, theta, 2, seed=5), RayPool(estimator, theta, 2, seed=5)

    def check() -> None:
        for a, b in zip(local.estimate(theta), remote.estimate(theta), strict=True):
            assert torch.equal(a.gradient.loss, b.gradient.loss) and a.number == b.number
            assert all(torch.equal(a.gradient.grads[name], b.gradient.grads[name]) for name in theta)

    for _ in range(3):
        check()
    # a state goes from either to the other
    before = local.state_dict()
    remote.estimate(theta)
    local.load_state_dict(remote.state_dict())
    check()
    remote.load_state_dict(before)
    local.load_state_dict(before)
    check()
    with pytest.raises(ValueError, match="number of workers"):
        remote.load_state_dict({"workers": remote.state_dict()["workers"][:1]})
    remote.close()


def test_what_a_worker_raises_is_raised_here() -> None:
    _, estimator = make("learner")
    pool = RayPool(estimator, {}, 1)
    with pytest.raises(Exception, match="shapes"):
        pool.estimate({"learner.network.head.weight": torch.zeros(7, 3)})
    pool.close()


def test_a_killed_actor_costs_nothing() -> None:
    rule, estimator = make("rule")
    theta = theta_of(rule)
    pool, local = (
        RayPool(estimator, theta, 2, seed=5, rules=Rules(snapshot_every=3)),
        LocalPool(estimator, theta, 2, seed=5),
    )
    for step in range(12):
        if step in (4, 8):
            victim = pool.backend.hosts[step // 8].actor  # type: ignore[attr-defined]
            os.kill(ray.get(victim.pid.remote()), signal.SIGKILL)
        for a, b in zip(pool.estimate(theta), local.estimate(theta), strict=True):
            assert (a.worker, a.number) == (b.worker, b.number)
            assert all(torch.equal(a.gradient.grads[name], b.gradient.grads[name]) for name in theta)
        time.sleep(0.1)
    told = pool.metrics()
    assert told["lost"] == 2.0 and told["moved"] >= 2.0
    pool.close()


def test_the_command_trains_a_learner_on_ray_to_the_same_weights(tmp_path: Path) -> None:
    words = ["learn", "--learner", "maml", "--data", "gaussian-classes", "--num-episodes", "2", "--workers", "2"]
    words += ["--steps", "3", "--evaluate-every", "3", "--validation-episodes", "4", "--test-episodes", "4"]
    words += ["--threads", "1"]
    for pool in ("local", "ray"):
        assert main([*words, "--pool", pool, "--run", str(tmp_path / pool)]) == 0
        found = audit(tmp_path / pool / "ledger.jsonl")
        assert found[:3] == (3, 6, 0)
    local, remote = (l2o.load(tmp_path / pool).state_dict() for pool in ("local", "ray"))
    assert all(torch.equal(local[name], remote[name]) for name in local)


def test_a_killed_driver_goes_on_as_if_it_had_never_died(tmp_path: Path) -> None:
    words = ["meta-train", "--tasks", "tests.integration.tiny:suite", "--rule", "mlp", "--estimator", "pes"]
    words += ["--num-tasks", "2", "--window", "2", "--horizon", "6", "--steps", "30", "--checkpoint-every", "3"]
    words += ["--evaluate-every", "30", "--workers", "2", "--threads", "1"]
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "l2o.cli", *words, "--pool", "ray", "--run", str(folder)]
    process = subprocess.Popen(command)
    while not list(folder.glob("checkpoints/step_*6.safetensors")):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main(["meta-train", "--resume", str(folder)]) == 0
    assert main([*words, "--pool", "local", "--run", str(tmp_path / "whole")]) == 0
    killed, whole = (l2o.load(path).state_dict() for path in (folder, tmp_path / "whole"))
    assert all(torch.equal(killed[name], whole[name]) for name in whole)
    assert audit(folder / "ledger.jsonl")[:3] == (30, 60, 0)


def test_the_example_of_a_sweep_finds_the_better_rates(tmp_path: Path) -> None:
    from benchmarks.sweep import Config, sweep

    pytest.importorskip("ray.tune")
    made = Config(samples=2, rounds=3, steps=2, concurrent=1, tasks="tests.integration.tiny:suite", out=tmp_path)
    results = sweep(made)
    assert len(results) == 2 and not results.errors
    assert {result.metrics["outer_steps"] for result in results} <= {4, 6}


def test_clusters_are_described_as_ray_wants_them() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    files = sorted((Path(l2o.__file__).parent / "distributed" / "launch").glob("*.yaml"))
    assert [file.name for file in files] == ["aws.yaml", "machines.yaml"]
    for file in files:
        validate_config(prepare_config(yaml.safe_load(file.read_text())))


class TwoArgumentsError(Exception):
    """Cannot be unpickled."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")


class Raises(GradientEstimator):
    def init(self, theta: Theta, generator: torch.Generator) -> torch.Tensor:
        return torch.zeros(())

    def estimate(self, theta: Theta, state: torch.Tensor, generator: torch.Generator) -> Any:
        raise TwoArgumentsError("digits", "no such file")


class Crashes(Raises):
    def estimate(self, theta: Theta, state: torch.Tensor, generator: torch.Generator) -> Any:
        if generator.initial_seed() == 1:
            os._exit(139)
        return MetaGradient({}, torch.zeros(()), {}), state


def test_what_cannot_be_unpickled_is_told_too() -> None:
    pool = RayPool(Raises(), {}, 1)
    with pytest.raises(Exception, match="no such file"):
        pool.estimate({})
    assert pool.counts["lost"] == 0
    pool.close()


def test_a_worker_that_crashes_its_process_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l2o.distributed.elastic.DEATHS", 2)
    pool = RayPool(Crashes(), {}, 2)
    assert [len(pool.estimate({})) for _ in range(2)] == [1, 2]
    assert pool.counts["begun_anew"] == 1
    pool.close()

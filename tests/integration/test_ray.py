"""Real Ray: its workers give the numbers of local ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import l2o
from l2o.cli import main
from l2o.distributed import LocalPool
from l2o.distributed.ray_pool import RayPool
from l2o.estimators import PES, Episodic, Problems, Truncation
from l2o.learners import MAML, MLP, Adaptation
from l2o.rules import SGD, MLPRule
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.tasks.quadratic import Quadratics
from l2o.training.meta_trainer import theta_of

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.xdist_group("ray"),
]


@pytest.fixture(scope="module", autouse=True)
def _shut_down() -> Iterator[None]:
    yield
    ray.shutdown()


def make(kind: str) -> tuple[torch.nn.Module, object]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "learner":
            adaptation = Adaptation(MAML(MLP([16, 8, 5])), SGD(0.1), 2)
            return adaptation, Episodic(adaptation, GaussianClasses(), 3)
        rule = MLPRule()
        return rule, PES(Problems(rule, Quadratics(4), num_tasks=2, copies=1, truncation=Truncation(2, 4)))


@pytest.mark.parametrize("kind", ["learner", "rule"])
def test_two_workers_of_ray_are_two_local_ones(kind: str) -> None:
    module, estimator = make(kind)
    theta = theta_of(module)
    local, remote = LocalPool(estimator, theta, 2, seed=5), RayPool(estimator, theta, 2, seed=5)  # type: ignore[arg-type]
    for _ in range(3):
        for a, b in zip(local.estimate(theta), remote.estimate(theta), strict=True):
            assert torch.equal(a.loss, b.loss)
            assert all(torch.equal(a.grads[name], b.grads[name]) for name in theta)
    # a state goes from either to the other
    after = [pool.estimate(theta) for pool in (local, remote)]
    local.load_state_dict(remote.state_dict())
    remote.load_state_dict(local.state_dict())
    again = [pool.estimate(theta) for pool in (local, remote)]
    for a, b in zip(*again, strict=True):
        assert all(torch.equal(a.grads[name], b.grads[name]) for name in theta)
    assert not torch.equal(after[0][0].loss, again[0][0].loss)
    with pytest.raises(ValueError, match="number of workers"):
        remote.load_state_dict({"workers": remote.state_dict()["workers"][:1]})
    remote.close()


def test_what_a_worker_raises_is_raised_here() -> None:
    _, estimator = make("learner")
    pool = RayPool(estimator, {}, 1)  # type: ignore[arg-type]
    with pytest.raises(Exception, match="size"):
        pool.estimate({"learner.network.head.weight": torch.zeros(7, 3)})
    pool.close()


def test_the_command_trains_a_learner_on_ray_to_the_same_weights(tmp_path: Path) -> None:
    words = ["learn", "--learner", "maml", "--data", "gaussian-classes", "--num-episodes", "2", "--workers", "2"]
    words += ["--steps", "3", "--evaluate-every", "3", "--validation-episodes", "4", "--test-episodes", "4"]
    words += ["--threads", "1"]
    for pool in ("local", "ray"):
        assert main([*words, "--pool", pool, "--run", str(tmp_path / pool)]) == 0
    local, remote = (l2o.load(tmp_path / pool).state_dict() for pool in ("local", "ray"))
    assert all(torch.equal(local[name], remote[name]) for name in local)

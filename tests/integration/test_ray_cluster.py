"""A cluster of three nodes, in one process, that loses one and gets another."""

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from l2o.distributed import LocalPool
from l2o.distributed.elastic import ElasticPool
from l2o.distributed.ray_pool import RayBackend, RayPool
from l2o.distributed.roster import Rules
from l2o.estimators import PES, Problems, Truncation
from l2o.rules import MLPRule
from l2o.tasks.quadratic import Quadratics
from l2o.training.meta_trainer import MetaTrainer, theta_of
from tests.integration.ray_marks import MARKS

ray = pytest.importorskip("ray")
pytestmark = MARKS


@pytest.fixture
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    ray.shutdown()
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made.connect()
    yield made
    ray.shutdown()
    made.shutdown()


def trainer(kind: str, **settings: Any) -> MetaTrainer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rule = MLPRule()
    estimator = PES(Problems(rule, Quadratics(4), num_tasks=2, copies=1, truncation=Truncation(2, 4)))
    pool: Any = {"local": LocalPool, "ray": RayPool}[kind](estimator, theta_of(rule), 3, seed=5, **settings)
    return MetaTrainer(rule, pool, torch.optim.Adam(rule.parameters(), lr=1e-2))


def test_a_node_that_disappears_costs_nothing_and_one_that_comes_is_used(cluster: Any) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    ours = trainer("ray", address=cluster.address, rules=Rules(snapshot_every=4))
    theirs = trainer("local")
    used = []
    deadline = time.monotonic() + 180  # to start a process on the new node takes seconds, on a busy machine many
    for step in itertools.count():
        if step == 5:
            cluster.remove_node(nodes[1], allow_graceful=False)
        if step == 20:
            cluster.add_node(num_cpus=1)
        metrics = ours.step()
        theirs.step()
        used += [tuple(one[:2]) for one in ours.entry["used"]]
        settled = step > 20 and metrics["pool/hosts"] == 3.0 and metrics["pool/moved"] >= 2.0
        if settled or time.monotonic() > deadline:
            break
    assert metrics["pool/lost"] == 1.0 and metrics["pool/joined"] == 4.0
    assert sorted(used) == sorted((worker, number + 1) for number in range(step + 1) for worker in range(3))
    for name, value in theta_of(ours.module).items():
        assert torch.equal(value, theta_of(theirs.module)[name])
    ours.pool.close()


def test_workers_share_a_gpu_or_do_without(cluster: Any) -> None:
    cluster.add_node(num_cpus=3, num_gpus=1)
    made = trainer("local")
    estimator = made.pool.workers[0].estimator
    backend = RayBackend(estimator, theta_of(made.module), cluster.address, 1, 0.25, cpu_workers=1, gpu="cpu")
    pool = ElasticPool(backend, 3, seed=5)
    for _ in range(2):
        ours, theirs = pool.estimate(theta_of(made.module)), made.pool.estimate(theta_of(made.module))
        for one, other in zip(ours, theirs, strict=True):
            assert all(torch.equal(one.gradient.grads[name], other.gradient.grads[name]) for name in one.gradient.grads)
    assert ray.cluster_resources()["GPU"] - ray.available_resources()["GPU"] == pytest.approx(0.5)
    pool.close()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_worker_whose_gpu_torch_cannot_use_says_so(cluster: Any) -> None:
    cluster.add_node(num_cpus=1, num_gpus=1)
    made = trainer("local")
    estimator, theta = made.pool.workers[0].estimator, theta_of(made.module)
    pool = RayPool(estimator, theta, 1, address=cluster.address, gpus_per_worker=1.0)
    with pytest.raises(RuntimeError, match="device must be one that torch has here"):
        pool.estimate(theta_of(made.module))
    pool.close()
    with pytest.raises(ValueError, match="gpus_per_worker must be a share"):
        RayPool(estimator, theta, 1, address=cluster.address, gpus_per_worker=1.5)
    with pytest.raises(ValueError, match="cpu_workers must be some of the 1 workers"):
        RayPool(estimator, theta, 1, address=cluster.address, cpu_workers=2)

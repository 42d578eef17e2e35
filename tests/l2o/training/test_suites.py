import pytest
import torch

from l2o.estimators import PES, Problems, Truncation
from l2o.load import load
from l2o.tasks import Quadratic, Quadratics
from l2o.training.config import MetaTrainConfig
from l2o.training.evaluate import Contestant, compare
from l2o.training.meta_trainer import theta_of
from l2o.training.suites import SUITES, load_suite
from l2o.types import seeded


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_meta_trains_and_evaluates(name):
    suite = load_suite(name)
    rule = load("adam", lr=1e-3)
    estimator = PES(Problems(rule, suite.family, num_tasks=2, truncation=Truncation(2, 2)))
    theta, generator = theta_of(rule), seeded(0)
    state = estimator.init(theta, generator)
    for _ in range(2):
        gradient, state = estimator.estimate(theta, state, generator)
        assert gradient.loss.isfinite() and gradient.metrics["nonfinite"] == 0
    for tasks in (suite.validation, suite.test):
        (result, *_) = compare({"Adam": Contestant(rule)}, tasks, num_steps=2, num_seeds=1)
        assert result.losses.isfinite().all() and result.validation.isfinite().all()


def test_test_networks_see_no_training_example_of_the_family():
    suite = load_suite("digits-mlp")
    family = suite.family.fix(seeded(0))
    seen = {bytes(row.numpy().tobytes()) for row in family.sources[0].train.x.flatten(1)}
    for task in suite.test.values():
        rows = [bytes(row.numpy().tobytes()) for row in task.data.train.x.flatten(1)]
        assert not seen & set(rows)


def test_a_family_or_a_task_of_ones_own_becomes_a_suite(monkeypatch):
    import tests.integration.tiny as module

    monkeypatch.setattr(module, "family", Quadratics(2), raising=False)
    monkeypatch.setattr(module, "task", Quadratic(torch.eye(2), torch.zeros(2)), raising=False)
    suite = load_suite("tests.integration.tiny:family")
    assert len(suite.validation) == len(suite.test) == 2
    assert load_suite("tests.integration.tiny:task").family.sample(seeded(0)) is module.task


@pytest.mark.parametrize("name", ["tests.integration.tiny:nothing", "no_such_module:x", "math:pi"])
def test_what_is_no_suite_is_told(name):
    with pytest.raises(ValueError, match=r"module:object|must be a Suite"):
        load_suite(name)


def test_stagger_on_a_family_of_many_structures_is_warned_of():
    config = MetaTrainConfig(tasks="digits-mlp", stagger=True, num_tasks=1, window=2, horizon=(4,))
    with pytest.warns(UserWarning, match="keeps the structure"):
        config.build(config.suite())
    one = MetaTrainConfig(tasks="quadratics", stagger=True, num_tasks=1, window=2, horizon=(4,))
    one.build(one.suite())  # warnings are errors

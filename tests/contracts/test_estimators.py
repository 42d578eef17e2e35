"""What every estimator of the meta-gradient promises."""

import copy
import pickle
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch.utils import _pytree

from l2o.estimators import ES, NRES, PES, Backprop, MetaLoss, Problems, Truncation
from l2o.tasks.base import Always, Mixture, Task, TaskFamily
from l2o.types import seeded, tree_leaves
from tests.toys import (
    BOWL,
    Bowl,
    HalvedRegressions,
    LearnedMomentum,
    Regressions,
    bowls,
    exact_gradient,
    flat,
    mean_and_error,
    theta_of,
)

ESTIMATORS = [
    pytest.param(Backprop, id="backprop"),
    pytest.param(partial(ES, std=0.02), id="es"),
    pytest.param(partial(PES, std=0.02), id="pes"),
    pytest.param(partial(NRES, std=0.02), id="nres"),
]

estimators = pytest.mark.parametrize("make", ESTIMATORS)


@estimators
def test_estimates_of_whole_problems_average_to_the_exact_gradient(make):
    """z-test at 3 standard errors over 20 x 1,000 problems: a formula wrong by 5% misses by 5 of them."""
    rule, horizon, num = LearnedMomentum(), 6, 1000
    estimator = make(bowls(rule, Always(BOWL), window=horizon, horizon=horizon, num_tasks=num))
    theta, generator = theta_of(rule), seeded(0)
    state = estimator.init(theta, generator)

    def draw():
        nonlocal state
        gradient, state = estimator.estimate(theta, state, generator)
        return gradient.grads

    mean, error = mean_and_error(draw, 20)
    exact = flat(exact_gradient(rule, BOWL, horizon))
    assert error.norm() < 0.015 * exact.norm()
    assert ((mean - exact).abs() <= 3 * error + 1e-12).all(), f"{mean=}, {exact=}, {error=}"


@dataclass(frozen=True)
class Unruly(TaskFamily):
    """Bowls, a third of them with another curvature."""

    curvature: float

    def sample(self, generator) -> Task:
        calm = torch.rand((), generator=generator) > 0.33
        start = torch.randn(3, generator=generator, dtype=torch.float64)
        return Bowl(BOWL.curvature if calm else torch.full_like(start, self.curvature), start)


@estimators
@pytest.mark.parametrize("bound", [None, 3.0])
def test_a_task_that_explodes_leaves_the_gradient_of_the_others_alone(make, bound):
    rule, num = LearnedMomentum(), 8

    def estimate(curvature):
        loss = MetaLoss(bound=bound)
        estimator = make(bowls(rule, Unruly(curvature), window=6, horizon=6, num_tasks=num, meta_loss=loss))
        generator = seeded(1)
        theta = theta_of(rule)
        return estimator.estimate(theta, estimator.init(theta, generator), generator)[0]

    flat_bowls, exploding = estimate(0.0), estimate(float("inf"))
    bad = sum(bool((Unruly(0.0).sample(seeded(int(s))).curvature == 0).all()) for s in _seeds(make, rule, num))
    assert 0 < bad < num
    # the gradient of a flat bowl is zero; without a bound, an exploding one is not counted in the mean either
    counted = num if bound is not None else num - bad
    torch.testing.assert_close(flat(exploding.grads) * counted, flat(flat_bowls.grads) * num)
    assert exploding.loss.isfinite()
    if bound is None:
        assert float(exploding.metrics["nonfinite"]) == pytest.approx(bad / num)
    assert float(flat_bowls.metrics["nonfinite"]) == 0.0


def _seeds(make, rule, num):
    state = make(bowls(rule, Unruly(0.0), window=6, horizon=6, num_tasks=num)).init(theta_of(rule), seeded(1))
    return (state if hasattr(state, "seeds") else state.problems).seeds


def _mixed(make, stagger):
    family = Mixture((Regressions(2), HalvedRegressions(), Always(BOWL)))
    truncation = Truncation(window=2, horizon=(4, 8) if stagger else 4, stagger=stagger)
    return make(Problems(LearnedMomentum(), family, num_tasks=3, truncation=truncation))


def _run(estimator, state, generator, num):
    theta, seen = theta_of(estimator.problems.rule), []
    for _ in range(num):
        gradient, state = estimator.estimate(theta, state, generator)
        seen.append((gradient, state))
    return seen


def _assert_same(one, other):
    leaves, spec = _pytree.tree_flatten(one)
    more, other_spec = _pytree.tree_flatten(other)
    assert spec == other_spec
    assert all(torch.equal(a, b) for a, b in zip(leaves, more, strict=True))


@estimators
@pytest.mark.parametrize("stagger", [False, True])
def test_a_run_resumed_from_a_copy_of_its_state_equals_the_run_that_never_stopped(make, stagger):
    for seed in range(3):  # several structures of the mixture
        estimator, generator = _mixed(make, stagger), seeded(seed)
        state = estimator.init(theta_of(estimator.problems.rule), generator)
        _, state = _run(estimator, state, generator, 3)[-1]
        saved, noise = copy.deepcopy(state), generator.get_state()
        went_on = _run(estimator, state, generator, 5)

        again = torch.Generator()
        again.set_state(noise)
        _assert_same(went_on, _run(_mixed(make, stagger), saved, again, 5))  # as after a restart
        again.set_state(noise)
        _assert_same(went_on, _run(estimator, state, again, 5))  # estimates leave the state they are given alone


@estimators
def test_the_state_is_a_tree_of_tensors_that_carry_no_graph(make):
    estimator, generator = _mixed(make, stagger=True), seeded(0)
    state = estimator.init(theta_of(estimator.problems.rule), generator)
    for later in (state, *(after for _, after in _run(estimator, state, generator, 4))):
        leaves = _pytree.tree_leaves(later)
        assert all(isinstance(leaf, torch.Tensor) for leaf in leaves)
        assert not any(leaf.requires_grad for leaf in leaves)


@estimators
def test_estimates_have_the_names_shapes_and_types_of_theta(make):
    estimator, generator = _mixed(make, stagger=False), seeded(0)
    theta = theta_of(estimator.problems.rule)
    gradient, _ = estimator.estimate(theta, estimator.init(theta, generator), generator)
    assert {n: (g.shape, g.dtype) for n, g in gradient.grads.items()} == {
        n: (t.shape, t.dtype) for n, t in theta.items()
    }
    assert not any(leaf.requires_grad for leaf in tree_leaves(gradient))


@estimators
def test_the_global_random_state_is_left_alone(make):
    before = torch.get_rng_state()
    estimator, generator = _mixed(make, stagger=True), seeded(0)
    _run(estimator, estimator.init(theta_of(estimator.problems.rule), generator), generator, 3)
    assert torch.equal(torch.get_rng_state(), before)


@estimators
def test_an_estimator_can_be_sent_to_another_process_after_use(make):
    estimator = _mixed(make, stagger=True)
    size = len(pickle.dumps(estimator))
    state = estimator.init(theta_of(estimator.problems.rule), seeded(0))
    seen = _run(estimator, state, seeded(1), 2)
    assert len(pickle.dumps(estimator)) == size  # tasks that were drawn meanwhile stay at home
    _assert_same(seen, _run(pickle.loads(pickle.dumps(estimator)), state, seeded(1), 2))
    _assert_same(seen, _run(copy.deepcopy(estimator), state, seeded(1), 2))


@estimators
def test_fifty_outer_steps_of_adam_lower_the_meta_loss(make):
    rule = LearnedMomentum(lr=0.01)
    estimator = make(bowls(rule, Regressions(), window=5, horizon=10, num_tasks=16))
    optimizer = torch.optim.Adam(rule.parameters(), lr=0.05)
    generator = seeded(0)
    theta = dict(rule.named_parameters())
    state = estimator.init(theta, generator)

    def meta_loss():
        judge = Backprop(bowls(rule, Regressions(), window=10, horizon=10, num_tasks=64))
        return float(judge.estimate(theta, judge.init(theta, seeded(7)), seeded(8))[0].loss)

    before = meta_loss()
    for _ in range(50):
        gradient, state = estimator.estimate(theta, state, generator)
        for name, parameter in theta.items():
            parameter.grad = gradient.grads[name]
        optimizer.step()
    assert meta_loss() < 0.8 * before

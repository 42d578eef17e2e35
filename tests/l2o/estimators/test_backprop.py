import pytest
import torch

from l2o.estimators import Backprop, MetaLoss
from l2o.inner_loop import InnerLoop
from l2o.rules import MatrixRule
from l2o.tasks import Quadratics
from l2o.tasks.base import Always
from l2o.types import seeded, tree_map
from tests.toys import BOWL, LearnedMomentum, Regressions, bowls, theta_of


def estimate(problems, num=1):
    estimator, generator = Backprop(problems), seeded(0)
    theta = theta_of(problems.rule)
    state = estimator.init(theta, generator)
    for _ in range(num):
        before = state
        gradient, state = estimator.estimate(theta, state, generator)
    return gradient, before


def test_a_window_gives_the_gradient_of_its_own_steps_alone():
    rule = LearnedMomentum()
    found, before = estimate(bowls(rule, Always(BOWL), window=3, horizon=9, num_tasks=2), num=2)
    theta, loop = theta_of(rule), InnerLoop(BOWL, rule)
    start = tree_map(lambda x: x[0], before.inner)
    assert int(start.opt.step) == 3
    _, losses = loop.unroll(theta, start, [None] * 3)
    expected = torch.autograd.grad(losses.mean(), list(theta.values()))
    torch.testing.assert_close(tuple(found.grads.values()), expected)
    torch.testing.assert_close(found.loss, losses.mean().detach())


@pytest.mark.parametrize("options", [{"recompute": True}, {"order": "first"}])
def test_options_reach_the_inner_loop(options):
    plain, _ = estimate(bowls(LearnedMomentum(), Regressions(), 4, 4, num_tasks=3))
    other, _ = estimate(bowls(LearnedMomentum(), Regressions(), 4, 4, num_tasks=3, **options))
    same = all(torch.allclose(plain.grads[name], other.grads[name]) for name in plain.grads)
    assert same == ("recompute" in options)


def test_the_final_loss_alone_has_a_gradient_and_only_where_the_problem_ends():
    problems = bowls(LearnedMomentum(), Always(BOWL), 2, 4, num_tasks=2, meta_loss=MetaLoss("final"))
    middle, _ = estimate(problems, num=1)
    end, _ = estimate(problems, num=2)
    assert all(float(grad) == 0.0 for grad in middle.grads.values())
    assert all(float(grad) != 0.0 for grad in end.grads.values())


def test_all_tasks_exploding_give_a_zero_gradient_and_no_loss():
    rule = LearnedMomentum(lr=1e200)
    gradient, _ = estimate(bowls(rule, Regressions(), 6, 6, num_tasks=2))
    assert all(float(grad) == 0.0 for grad in gradient.grads.values())
    assert gradient.loss.isnan(), "not zero, which would look like success"
    assert float(gradient.metrics["nonfinite"]) == 1.0


def test_where_theta_moves_nothing_the_gradient_is_zero():
    """The matrix rule moves vectors by AdamW, without theta: in a mixture of families some structures have no more."""
    gradient, _ = estimate(bowls(MatrixRule(), Quadratics(dim=3), 4, 4, num_tasks=2))
    assert gradient.loss.isfinite() and all((grad == 0).all() for grad in gradient.grads.values())


def test_a_window_whose_gradient_is_always_zero_is_refused():
    with pytest.raises(ValueError, match="window must be at least 2"):
        Backprop(bowls(LearnedMomentum(), Always(BOWL), window=1, horizon=4, num_tasks=1))
    Backprop(bowls(LearnedMomentum(), Always(BOWL), 1, 4, num_tasks=1, meta_loss=MetaLoss("validation")))

"""What the evolution strategies keep between windows, and single estimates worked out by hand."""

import pytest
import torch

from l2o.estimators import ES, NRES, PES, Problems, Truncation
from l2o.inner_loop import InnerLoop
from l2o.tasks.base import Always
from l2o.types import seeded, tree_leaves, tree_map
from tests.toys import BOWL, LearnedMomentum, Regressions, bowls, theta_of

STD = 0.1


def run(estimator, num, seed=0):
    """(state before, estimate, state after) of several windows."""
    theta, generator = theta_of(estimator.problems.rule), seeded(seed)
    state = estimator.init(theta, generator)
    for _ in range(num):
        gradient, after = estimator.estimate(theta, state, generator)
        yield state, gradient, after
        state = after


def staggered(make):
    truncation = Truncation(window=2, horizon=6, stagger=True)
    return make(Problems(LearnedMomentum(), Regressions(), num_tasks=6, truncation=truncation), STD)


def ended_in(before):
    return before.problems.age + 2 >= before.problems.horizon


def test_noise_reuse_keeps_the_noise_of_a_problem_and_draws_it_anew_for_the_next():
    for before, _, after in run(staggered(NRES), 8):
        ended = ended_in(before)
        for name, noise in after.noise.items():
            assert torch.equal(noise[~ended], before.noise[name][~ended])
            assert (noise[ended] != before.noise[name][ended]).all()


def test_persistent_noise_grows_along_a_problem_and_starts_at_zero():
    for before, _, after in run(staggered(PES), 8):
        ended = ended_in(before)
        for name, noise in after.noise.items():
            assert (noise[ended] == 0).all()
            assert (noise[~ended] != before.noise[name][~ended]).all()


def test_persistent_noise_is_the_sum_of_the_windows_noises():
    """Independent increments: the variance after k windows is k s^2 (4 standard errors, n = 4,000)."""
    estimator = PES(bowls(LearnedMomentum(), Always(BOWL), 1, 4, num_tasks=2000), STD)
    for k, (_, _, after) in enumerate(run(estimator, 3, seed=1), start=1):
        noise = torch.stack(list(after.noise.values())) / STD
        assert abs(float(noise.square().mean()) - k) < 4 * k * (2 / 4000) ** 0.5


def test_plain_es_keeps_no_noise_and_starts_both_networks_of_a_pair_alike():
    states = list(run(staggered(ES), 3))
    assert all(after.noise == {} for _, _, after in states)
    estimator = staggered(ES)
    inner = estimator._before(states[-1][2].problems).inner
    for leaf in tree_leaves(inner):
        assert torch.equal(leaf[:6], leaf[6:])


@pytest.mark.parametrize("sign_delta", [False, True])
@pytest.mark.parametrize("make", [PES, NRES])
def test_one_estimate_equals_the_formula(make, sign_delta):
    """Two windows of three pairs, each trained by hand; the loss is scaled so that signs differ from differences."""
    num, window = 3, 2
    rule = LearnedMomentum()
    estimator = make(bowls(rule, Always(BOWL), window, 3 * window, num), STD, sign_delta=sign_delta)
    (_, _, first), (_, found, second) = run(estimator, 2)
    loop, theta = InnerLoop(BOWL, rule), theta_of(rule)
    total = {name: torch.zeros_like(value) for name, value in theta.items()}
    for i in range(num):
        weight = {name: noise[i] for name, noise in second.noise.items()}
        old = {name: noise[i] if make is PES else 0.0 for name, noise in first.noise.items()}
        ends = []
        for sign, copy in ((1, 0), (-1, 1)):
            moved = {name: theta[name] + sign * (weight[name] - old[name]) for name in theta}
            start = tree_map(lambda x, lane=copy * num + i: x[lane], first.problems.inner)
            ends.append(loop.unroll(moved, start, [None] * window)[1].mean())
        delta = ends[0] - ends[1]
        delta = delta.sign() if sign_delta else delta
        for name in theta:
            total[name] = total[name] + delta * weight[name] / (2 * STD**2) / num
    for name in theta:
        torch.testing.assert_close(found.grads[name], total[name].detach())


def test_pairs_lie_on_both_sides_of_theta():
    """The meta-loss of one problem changes by half a curvature on average, not by a slope: s^2 small against s."""
    rule = LearnedMomentum()
    loop = InnerLoop(BOWL, rule)
    middle = loop.unroll(theta_of(rule), loop.reset(seeded(0)), [None] * 4)[1].mean()
    estimator = ES(bowls(rule, Always(BOWL), 4, 4, num_tasks=1), std=1e-4)
    for _, gradient, _ in run(estimator, 5):
        assert abs(float(gradient.loss - middle.detach())) < 1e-6


def test_a_standard_deviation_of_zero_is_refused():
    with pytest.raises(ValueError, match="std must be positive"):
        ES(bowls(LearnedMomentum(), Always(BOWL), 4, 4, num_tasks=1), std=0.0)

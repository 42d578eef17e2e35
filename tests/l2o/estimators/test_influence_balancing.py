"""Influence balancing (Tallec and Ollivier, 2017, section 5.1; Vicol et al., 2021, section 5.1).

    x' = A x + theta (1, ..., 1, -1, ..., -1),   loss = (x_1 - 1)^2 / 2

At first theta raises x_1; after a while, when the more numerous negative entries have come along the chain, it lowers
it, and that is what counts. Gradients cut short have the wrong sign.
"""

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Generator

from l2o.estimators import ES, NRES, PES, Backprop
from l2o.rules.base import OptState, UpdateRule, zero_step
from l2o.tasks.base import Always, Task
from l2o.types import seeded
from tests.toys import bowls, flat, mean_and_error, theta_of

SIZE, POSITIVE, HORIZON, WINDOW = 23, 10, 100, 10
A = 0.5 * (torch.eye(SIZE, dtype=torch.float64) + torch.diag(torch.ones(SIZE - 1, dtype=torch.float64), 1))
B = torch.cat([torch.ones(POSITIVE), -torch.ones(SIZE - POSITIVE)]).double()


@dataclass(frozen=True)
class FirstEntry(Task):
    def init(self, generator: Generator):
        return {"x": -torch.ones(SIZE, dtype=torch.float64)}

    def sample_batch(self, generator: Generator):
        return None

    def loss(self, params, batch):
        return (params["x"][0] - 1.0).square() / 2


class Injection(UpdateRule):
    """The dynamics, written as an optimizer: params move by (A - I) x + B theta, whatever the gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def init(self, params, total_steps=None):
        return OptState(zero_step(params), {}, {})

    def forward(self, grads, state, params, loss=None):
        x = params["x"]
        return {"x": A @ x - x + B * self.theta}, state._replace(step=state.step + 1)


def gradient_by_hand(window):
    """Sum over the problem's windows of the derivative of each window's mean loss, influences of older steps cut."""
    x, total = -torch.ones(SIZE, dtype=torch.float64), 0.0
    for step in range(HORIZON):
        if step % window == 0:
            influence = torch.zeros(SIZE, dtype=torch.float64)
        total += float((x[0] - 1.0) * influence[0]) / WINDOW
        x, influence = A @ x + 0.5 * B, A @ influence + B
    return total


EXACT, CUT = gradient_by_hand(HORIZON), gradient_by_hand(WINDOW)


def whole_problems(make, num_tasks):
    """Draws the sum of the estimates over one problem after another, each in windows of WINDOW steps."""
    rule = Injection()
    estimator = make(bowls(rule, Always(FirstEntry()), WINDOW, HORIZON, num_tasks))
    theta, generator = theta_of(rule), seeded(0)
    state = estimator.init(theta, generator)

    def draw():
        nonlocal state
        total = torch.zeros((), dtype=torch.float64)
        for _ in range(HORIZON // WINDOW):
            gradient, state = estimator.estimate(theta, state, generator)
            total += gradient.grads["theta"]
        return {"theta": total}

    return draw


def test_a_gradient_cut_short_has_the_wrong_sign():
    assert EXACT > 0 > CUT


def test_truncated_backprop_follows_the_cut_gradient():
    torch.testing.assert_close(float(whole_problems(Backprop, 2)()["theta"]), CUT)


def test_full_backprop_finds_the_exact_gradient():
    rule = Injection()
    estimator = Backprop(bowls(rule, Always(FirstEntry()), HORIZON, HORIZON, num_tasks=2))
    gradient, _ = estimator.estimate(theta_of(rule), estimator.init(theta_of(rule), seeded(0)), seeded(0))
    torch.testing.assert_close(float(flat(gradient.grads)), EXACT * WINDOW / HORIZON)


@pytest.mark.parametrize(
    ("make", "expected", "precision"),
    [
        pytest.param(partial(PES, std=0.1), EXACT, 0.1, id="pes is unbiased"),
        pytest.param(partial(NRES, std=0.1), EXACT, 0.05, id="nres is unbiased"),
        pytest.param(partial(ES, std=0.1), CUT, 0.1, id="es sees no further than truncated backprop"),
    ],
)
def test_evolution_strategies_in_short_windows(make, expected, precision):
    """z-test at 4 standard errors over 12 x 200 problems; the loss is quadratic in theta, so smoothing adds no bias."""
    mean, error = mean_and_error(whole_problems(make, num_tasks=200), 12)
    assert float(error) < precision * abs(expected), f"{mean=}, {expected=}, {error=}"
    assert abs(float(mean) - expected) <= 4 * float(error), f"{mean=}, {expected=}, {error=}"

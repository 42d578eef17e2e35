from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from l2o.learners import IMAML, MLP, Adaptation, Learner, adapt
from l2o.learners.implicit import conjugate_gradients, implicit
from l2o.rules import SGD, Momentum
from l2o.tasks.episodes import Examples
from l2o.types import seeded

SUPPORT = Examples(torch.full((1, 1), 4.0, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    """Networks are the same in every run, whatever runs before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class Tracking(Learner):
    """Inner loss a w^2 / 2 - s w with a of the support set: its minimum is s / a. The prediction is w + 10 t."""

    def __init__(self) -> None:
        super().__init__()
        self.s, self.t = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (2.0, 0.5))

    def start(self, support: Examples) -> dict[str, Tensor]:
        return {"w": torch.zeros_like(self.s)}

    def inner_loss(self, fast: dict[str, Tensor], support: Examples) -> Tensor:
        return support.x.sum() * fast["w"].square() / 2 - self.s * fast["w"]

    def predict(self, fast: dict[str, Tensor], x: Tensor) -> Tensor:
        return (fast["w"] + 10 * self.t) * torch.ones_like(x)


def spd(n: int) -> Tensor:
    a = torch.randn(n, n, dtype=torch.float64, generator=seeded(0))
    return a @ a.T + torch.eye(n, dtype=torch.float64)


def test_conjugate_gradients_solve_in_as_many_iterations_as_there_are_numbers() -> None:
    matrix, target = spd(5), torch.randn(5, dtype=torch.float64, generator=seeded(1))

    def product(v: dict[str, Tensor]) -> dict[str, Tensor]:
        image = matrix @ torch.cat([v["a"], v["b"].flatten()])
        return {"a": image[:2], "b": image[2:].view(3, 1)}

    def solve(num: int) -> Tensor:
        x = conjugate_gradients(product, {"a": target[:2], "b": target[2:].view(3, 1)}, num)
        return torch.cat([x["a"], x["b"].flatten()])

    expected = torch.linalg.solve(matrix, target)
    for num in (5, 50):  # further ones change nothing
        torch.testing.assert_close(solve(num), expected, rtol=1e-9, atol=1e-9)
    errors = [(e @ matrix @ e).sqrt() for e in (solve(num) - expected for num in range(6))]
    assert all(a > b for a, b in pairwise(errors))


def test_nothing_to_solve_is_solved_and_a_saddle_stops() -> None:
    zero = conjugate_gradients(lambda v: v, {"a": torch.zeros(3)}, 3)
    assert torch.equal(zero["a"], torch.zeros(3))
    stopped = conjugate_gradients(lambda v: {"a": -v["a"]}, {"a": torch.ones(3)}, 3)
    assert torch.equal(stopped["a"], torch.zeros(3))


def test_the_derivative_of_the_minimum_is_that_worked_out_by_hand() -> None:
    learner = Tracking()
    fast = implicit(learner, {"w": torch.tensor(0.5, dtype=torch.float64)}, SUPPORT, 1)
    assert float(fast["w"].detach()) == 0.5
    s, t = torch.autograd.grad(3 * fast["w"], [learner.s, learner.t], allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(s, torch.tensor(3 / 4, dtype=torch.float64))  # d (s / a) / d s
    assert float(t) == 0.0


@pytest.mark.parametrize("rule", [lambda: SGD(0.1), lambda: Momentum(0.05)])
def test_the_steps_are_those_of_the_other_orders_and_have_no_gradient(rule: object) -> None:
    learner = IMAML(MLP([3, 4, 1])).double()
    support = Examples(torch.randn(4, 3, generator=seeded(0)).double(), torch.randn(4, 1, generator=seeded(1)).double())
    of = rule().double()  # type: ignore[operator]
    fast, full = adapt(learner, of, support, 3, "implicit:2"), adapt(learner, of, support, 3, "full")
    for name, value in full.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-12, atol=1e-12)
    total = sum(value.sum() for value in fast.values())
    grads = torch.autograd.grad(total, list(of.parameters()), allow_unused=True, materialize_grads=True)
    assert not any(grad.any() for grad in grads)


def test_what_the_prediction_takes_from_slow_weights_counts_besides() -> None:
    adaptation = Adaptation(Tracking(), SGD(0.2).double(), 40, "implicit:1")
    fast = adaptation.adapt(SUPPORT)
    prediction = adaptation.learner.predict(fast, SUPPORT.x).sum()
    torch.testing.assert_close(prediction.detach(), torch.tensor(0.5 + 5.0, dtype=torch.float64))
    found = torch.autograd.grad(prediction, [adaptation.learner.s, adaptation.learner.t])
    assert [float(grad) for grad in found] == pytest.approx([0.25, 10.0])


def test_zero_steps_are_the_start_with_its_own_gradient() -> None:
    learner = Tracking()
    fast = adapt(learner, None, SUPPORT, 0, "implicit:1")
    assert float(fast["w"]) == 0.0 and not fast["w"].requires_grad


def test_without_gradients_nothing_is_recorded() -> None:
    with torch.no_grad():
        fast = adapt(Tracking(), SGD(0.1).double(), SUPPORT, 2, "implicit:1")
    assert not fast["w"].requires_grad

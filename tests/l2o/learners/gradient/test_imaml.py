from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from l2o.learners import IMAML, MAML, MLP, Adaptation, adapt, meta_grad
from l2o.rules import SGD
from l2o.tasks.episodes import Episode, Examples
from l2o.types import seeded, tree_map

STRENGTH, RATE, STEPS = 2.0, 0.2, 60


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    """Networks are the same in every run, whatever runs before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def drawn(num: int, seed: int) -> Examples:
    x = torch.rand(num, 3, dtype=torch.float64, generator=seeded(seed)) - 0.5
    return Examples(x, x.sum(1, keepdim=True) + 0.1 * torch.randn(num, 1, generator=seeded(seed + 9)).double())


EPISODE = Episode(drawn(4, 0), drawn(4, 1))
ONE = tree_map(lambda x: x.unsqueeze(0), EPISODE)


@pytest.fixture
def linear() -> nn.Linear:
    return nn.Linear(3, 1, bias=False).double()


def in_closed_form(linear: nn.Linear) -> tuple[Tensor, Tensor, Tensor]:
    """The minimum (2 X'X / n + s)^-1 (2 X'y / n + s w), the query loss there and its gradient to w."""
    (x, y), query = EPISODE
    w = linear.weight.detach().T.clone().requires_grad_()
    hessian = 2 * x.T @ x / len(x) + STRENGTH * torch.eye(3, dtype=torch.float64)
    minimum = torch.linalg.solve(hessian, 2 * x.T @ y / len(x) + STRENGTH * w)
    loss = (query.x @ minimum - query.y).square().mean()
    (grad,) = torch.autograd.grad(loss, w)
    return minimum.detach().T, loss.detach(), grad.T


@pytest.mark.parametrize("batching", ["loop", "vmap"])
@pytest.mark.parametrize("order", ["implicit:3", "full"])
def test_the_meta_gradient_at_the_minimum_is_that_in_closed_form(linear: nn.Linear, order: str, batching: str) -> None:
    minimum, loss, expected = in_closed_form(linear)
    adaptation = Adaptation(IMAML(linear, STRENGTH), SGD(RATE).double(), STEPS, order)
    torch.testing.assert_close(adaptation.adapt(EPISODE.support)["weight"].detach(), minimum, rtol=1e-8, atol=1e-8)
    found = meta_grad(adaptation, ONE, batching=batching)
    torch.testing.assert_close(found.losses[0], loss, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.grads["learner.network.weight"], expected, rtol=1e-6, atol=1e-8)


def test_the_way_to_the_minimum_means_nothing(linear: nn.Linear) -> None:
    """The implicit gradient is of the minimum alone: another rule, and batches of rows at first, give the same."""
    learner = IMAML(linear, STRENGTH)
    one = meta_grad(Adaptation(learner, SGD(RATE).double(), STEPS, "implicit:3"), ONE).grads
    other = meta_grad(Adaptation(learner, SGD(0.3).double(), STEPS, "implicit:3"), ONE).grads
    torch.testing.assert_close(one["learner.network.weight"], other["learner.network.weight"], rtol=1e-6, atol=1e-8)
    assert not one["rule.log_lr"].any()


@pytest.mark.parametrize("batching", ["loop", "vmap"])
def test_weights_that_do_not_adapt_reach_the_minimum_as_well(batching: str) -> None:
    """With a head that adapts on a body that does not, the implicit gradient of both is that of a long unroll."""
    learner = IMAML(MLP([3, 4, 1]), STRENGTH, adapted=("head.",)).double()
    implicit = meta_grad(Adaptation(learner, SGD(RATE).double(), STEPS, "implicit:5"), ONE, batching=batching).grads
    unrolled = meta_grad(Adaptation(learner, SGD(RATE).double(), STEPS, "full"), ONE, batching="loop").grads
    for name in ("hidden.0.weight", "hidden.0.bias", "head.weight", "head.bias"):
        expected = unrolled[f"learner.network.{name}"]
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(implicit[f"learner.network.{name}"], expected, rtol=1e-6, atol=1e-8)


def test_the_inner_loss_is_mamls_plus_half_the_squared_distance(linear: nn.Linear) -> None:
    learner, plain = IMAML(linear, STRENGTH), MAML(linear)
    fast = {"weight": linear.weight.detach() + torch.tensor([[1.0, -2.0, 0.0]])}
    torch.testing.assert_close(
        learner.inner_loss(fast, EPISODE.support), plain.inner_loss(fast, EPISODE.support) + STRENGTH / 2 * 5.0
    )


def test_the_stronger_the_pull_the_nearer_the_start(linear: nn.Linear) -> None:
    far = [
        (adapt(IMAML(linear, s), SGD(0.05).double(), EPISODE.support, 30)["weight"] - linear.weight).norm()
        for s in (0.1, 1.0, 10.0)
    ]
    assert far[0] > far[1] > 3 * far[2]


def test_without_a_pull_the_slow_weights_would_have_no_gradient(linear: nn.Linear) -> None:
    for strength in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="strength must be positive"):
            IMAML(linear, strength)

import pytest
import torch
from torch import Tensor, nn

from l2o.learners import IMAML, MAML, MLP, Adaptation, Learner, PrototypicalNetwork, adapt, meta_grad
from l2o.learners.adapt import parse_order, trajectory
from l2o.rules import SGD, Adam, Momentum
from l2o.tasks.episodes import Episode, Examples
from l2o.types import seeded, tree_map

RATE = 0.1


class Scalar(Learner):
    """One weight w; inner loss w^4 / 4 of the support's first number times it, prediction w."""

    def __init__(self, w: float = 1.5) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def start(self, support: Examples) -> dict[str, Tensor]:
        return {"w": self.w}

    def inner_loss(self, fast: dict[str, Tensor], support: Examples) -> Tensor:
        return support.x[0, 0] * fast["w"] ** 4 / 4

    def predict(self, fast: dict[str, Tensor], x: Tensor) -> Tensor:
        return fast["w"] * torch.ones_like(x)


SUPPORT = Examples(torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))


def moved(w: float, steps: int) -> list[float]:
    path = [w]
    for _ in range(steps):
        path.append(path[-1] - RATE * path[-1] ** 3)
    return path


@pytest.mark.parametrize(
    ("order", "factor"),
    [
        ("full", lambda p: (1 - 3 * RATE * p[0] ** 2) * (1 - 3 * RATE * p[1] ** 2) * (1 - 3 * RATE * p[2] ** 2)),
        ("truncated:3", lambda p: (1 - 3 * RATE * p[0] ** 2) * (1 - 3 * RATE * p[1] ** 2) * (1 - 3 * RATE * p[2] ** 2)),
        ("truncated:9", lambda p: (1 - 3 * RATE * p[0] ** 2) * (1 - 3 * RATE * p[1] ** 2) * (1 - 3 * RATE * p[2] ** 2)),
        ("truncated:2", lambda p: (1 - 3 * RATE * p[1] ** 2) * (1 - 3 * RATE * p[2] ** 2)),
        ("truncated:1", lambda p: 1 - 3 * RATE * p[2] ** 2),
        ("first", lambda p: 1.0),
    ],
)
def test_each_order_has_the_derivative_worked_out_by_hand(order: str, factor: object) -> None:
    learner = Scalar()
    fast = adapt(learner, SGD(RATE).double(), SUPPORT, 3, order)
    path = moved(1.5, 3)
    torch.testing.assert_close(fast["w"].detach(), torch.tensor(path[3], dtype=torch.float64))
    (found,) = torch.autograd.grad(fast["w"], learner.w)
    torch.testing.assert_close(found, torch.tensor(factor(path), dtype=torch.float64))  # type: ignore[operator]


def test_the_rate_has_a_gradient_in_every_order_but_the_implicit() -> None:
    for order in ("full", "first", "truncated:1"):
        rule = SGD(RATE).double()
        fast = adapt(Scalar(), rule, SUPPORT, 2, order)
        (found,) = torch.autograd.grad(fast["w"], rule.log_lr)
        assert found.abs() > 0.1, order


def test_the_path_begins_with_the_start_and_ends_where_adapt_does() -> None:
    path = [float(fast["w"].detach()) for fast in trajectory(Scalar(), SGD(RATE).double(), SUPPORT, 4)]
    assert path == pytest.approx(moved(1.5, 4))


def test_batches_go_through_the_support_set_in_order_and_begin_anew() -> None:
    support = Examples(torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64), torch.zeros(3, 1))
    path = [float(fast["w"].detach()) for fast in trajectory(Scalar(1.0), SGD(RATE).double(), support, 4, batch_size=1)]
    w, expected = 1.0, [1.0]
    for factor in (1.0, 2.0, 4.0, 1.0):
        w -= RATE * factor * w**3
        expected.append(w)
    assert path == pytest.approx(expected)


def test_the_rule_knows_how_many_steps_are_to_come() -> None:
    seen = []

    class Asked(SGD):
        def init(self, params: object, total_steps: object = None) -> object:  # type: ignore[override]
            seen.append(total_steps)
            return super().init(params, total_steps)  # type: ignore[arg-type]

    adapt(Scalar(), Asked().double(), SUPPORT, 7)
    assert seen == [7]


@pytest.mark.parametrize("order", ["second", "full:2", "truncated", "truncated:0", "implicit:x", ""])
def test_unknown_orders_are_refused(order: str) -> None:
    with pytest.raises(ValueError, match="order must be full, first"):
        parse_order(order)


def test_steps_need_a_rule() -> None:
    with pytest.raises(ValueError, match="need a rule"):
        adapt(Scalar(), None, SUPPORT, 1)
    with pytest.raises(ValueError, match="steps must be 0"):
        Adaptation(Scalar(), None, 2)


def regression(num: int = 3) -> Episode:
    x = torch.randn(num, 8, 3, dtype=torch.float64, generator=seeded(0))
    w = torch.randn(num, 3, 1, dtype=torch.float64, generator=seeded(1))
    y = x @ w
    return Episode(Examples(x[:, :4], y[:, :4]), Examples(x[:, 4:], y[:, 4:]))


@pytest.mark.parametrize("rule", [lambda: SGD(0.05), lambda: Momentum(0.05), lambda: Adam(0.05)])
def test_recomputing_gives_the_same_gradient(rule: object) -> None:
    learner = MAML(MLP([3, 4, 1]))
    kept = Adaptation(learner, rule(), 4).double()  # type: ignore[operator]
    again = Adaptation(learner, kept.rule, 4, recompute=True).double()
    a, b = meta_grad(kept, regression(), batching="loop"), meta_grad(again, regression())
    for name, grad in a.grads.items():
        torch.testing.assert_close(b.grads[name], grad, rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="batching='loop'"):
        meta_grad(again, regression(), batching="vmap")


def test_the_implicit_gradient_is_that_of_the_minimum_in_closed_form() -> None:
    """Linear regression pulled to its start has the minimum (X'X/n 2 + s)^-1 (2 X'y/n + s w)."""
    strength = 0.7
    learner = IMAML(nn.Linear(3, 1, bias=False), strength).double()
    episode = tree_map(lambda x: x[0], regression())
    (x, y), query = episode
    w = learner.network.weight.detach().T.clone().requires_grad_()
    hessian = 2 * x.T @ x / len(x) + strength * torch.eye(3, dtype=torch.float64)
    minimum = torch.linalg.solve(hessian, 2 * x.T @ y / len(x) + strength * w)
    loss = (query.x @ minimum - query.y).square().mean()
    (expected,) = torch.autograd.grad(loss, w)
    one = tree_map(lambda x: x.unsqueeze(0), episode)
    for batching in ("loop", "vmap"):
        made = meta_grad(Adaptation(learner, SGD(0.1).double(), 400, "implicit:3"), one, batching=batching)
        torch.testing.assert_close(made.losses[0], loss.detach(), rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(made.grads["learner.network.weight"], expected.T, rtol=1e-7, atol=1e-8)
    full = meta_grad(Adaptation(learner, SGD(0.1).double(), 400), one, batching="vmap")
    torch.testing.assert_close(full.grads["learner.network.weight"], expected.T, rtol=1e-7, atol=1e-8)


def test_episodes_that_explode_are_left_out_of_the_mean() -> None:
    adaptation = Adaptation(MAML(MLP([3, 4, 1])), SGD(0.1), 1).double()
    episodes = regression()
    episodes.support.x[1] = float("inf")
    alone = meta_grad(adaptation, tree_map(lambda x: x[[0, 2]], episodes))
    for batching in ("loop", "vmap", "chunk:2", "chunk:1"):
        found = meta_grad(adaptation, episodes, batching=batching)
        assert found.finite.tolist() == [True, False, True]
        for name, grad in alone.grads.items():
            torch.testing.assert_close(found.grads[name], grad)
    every = meta_grad(adaptation, tree_map(lambda x: x[[1, 1]], episodes), batching="vmap")
    assert not every.finite.any() and all(not grad.any() for grad in every.grads.values())


def test_unknown_batching_is_refused() -> None:
    adaptation = Adaptation(MAML(MLP([3, 4, 1])), SGD(0.1), 1).double()
    for batching in ("both", "chunk:", "chunk:0"):
        with pytest.raises(ValueError, match="batching must be"):
            meta_grad(adaptation, regression(), batching=batching)


def test_classes_are_counted_one_support_set_at_a_time() -> None:
    support = Examples(torch.randn(4, 3, generator=seeded(0)), torch.tensor([0, 1, 2, 1]))
    learner = PrototypicalNetwork(MLP([3, 2]))
    assert learner.start(support)["prototypes"].shape == (3, 2)
    many = tree_map(lambda x: torch.stack([x, x]), Episode(support, support))
    assert meta_grad(Adaptation(learner), many).losses.shape == (2,)  # auto: one by one
    with pytest.raises(ValueError, match="way must be given"):
        meta_grad(Adaptation(learner), many, batching="vmap")


@pytest.mark.compiled
def test_compiled_gradients_equal_eager_ones() -> None:
    adaptation = Adaptation(MAML(MLP([3, 4, 1])), SGD(0.1), 2).double()
    a = meta_grad(adaptation, regression(), batching="vmap")
    b = meta_grad(adaptation, regression(), batching="vmap", compile=True)
    for name, grad in a.grads.items():
        torch.testing.assert_close(b.grads[name], grad, rtol=1e-10, atol=1e-12)

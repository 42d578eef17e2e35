from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from l2o.learners import MAML, MLP, Adaptation, Learner, adapt, meta_grad
from l2o.learners.adapt import parse_order, trajectory
from l2o.rules import SGD, Momentum
from l2o.tasks.episodes import Episode, Examples
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.types import seeded, tree_map

RATE = 0.1


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    """Networks are the same in every run, whatever runs before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


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


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_of_the_rate_each_order_has_the_derivative_worked_out_by_hand(steps: int) -> None:
    """By log rate, dw_k+1 = (1 - 3 rate w_k^2) dw_k - rate w_k^3; orders differ in where the first factor counts."""
    path = moved(1.5, steps)
    for order, num_second in (("full", steps), ("first", 0), ("truncated:1", 1), ("truncated:2", 2)):
        expected = 0.0
        for k, w in enumerate(path[:-1]):
            second = k >= steps - num_second
            kept = 0.0 if order.startswith("truncated") and k == steps - num_second else expected
            expected = (1 - 3 * RATE * w**2 * second) * kept - RATE * w**3
        rule = SGD(RATE).double()
        fast = adapt(Scalar(), rule, SUPPORT, steps, order)
        (found,) = torch.autograd.grad(fast["w"], rule.log_lr)
        assert float(found) == pytest.approx(expected), order


def test_truncation_cuts_what_the_rule_remembers_too() -> None:
    """With buffers b <- m b + w^3, m = 1 - .1 exp(z): dw_3 / dz = .1 rate b_2, as if b_2 had not been made with m."""
    rule = Momentum(RATE, 0.9).double()
    *path, last = trajectory(Scalar(), rule, SUPPORT, 3, "truncated:1")
    buffer = 0.0
    for fast in path[:-1]:
        buffer = 0.9 * buffer + float(fast["w"].detach()) ** 3
    (found,) = torch.autograd.grad(last["w"], rule.log_rate)
    assert float(found) == pytest.approx(0.1 * RATE * buffer)


def test_the_path_begins_with_the_start_and_ends_where_adapt_does() -> None:
    path = [float(fast["w"].detach()) for fast in trajectory(Scalar(), SGD(RATE).double(), SUPPORT, 4)]
    assert path == pytest.approx(moved(1.5, 4))


def test_batches_of_more_than_all_rows_are_all_rows() -> None:
    support = Examples(torch.tensor([[1.0], [2.0]], dtype=torch.float64), torch.zeros(2, 1))
    every, more = (adapt(Scalar(), SGD(RATE).double(), support, 2, batch_size=b)["w"] for b in (None, 5))
    assert torch.equal(every, more)
    with pytest.raises(ValueError, match="batch_size must be positive"):
        Adaptation(Scalar(), SGD(RATE), 1, batch_size=0)


def test_a_batch_over_the_end_goes_on_at_the_beginning() -> None:
    class Mean(Scalar):
        """The inner loss takes all rows given."""

        def inner_loss(self, fast: dict[str, Tensor], support: Examples) -> Tensor:
            return support.x.mean() * fast["w"] ** 4 / 4

    support = Examples(torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64), torch.zeros(3, 1))
    path = [float(fast["w"].detach()) for fast in trajectory(Mean(1.0), SGD(RATE).double(), support, 4, batch_size=2)]
    w, expected = 1.0, [1.0]
    for factor in (1.5, 2.5, 3.0, 1.5):  # rows 1 2, 3 1, 2 3, 1 2
        w -= RATE * factor * w**3
        expected.append(w)
    assert path == pytest.approx(expected)


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


class Besides(Scalar):
    """Inner loss w s: the slow weight s, where w starts, counts besides."""

    def inner_loss(self, fast: dict[str, Tensor], support: Examples) -> Tensor:
        return fast["w"] * self.w


@pytest.mark.parametrize("batching", ["loop", "vmap"])
def test_the_inner_gradient_is_of_the_fast_variables_alone(batching: str) -> None:
    """Each step goes by -rate s, so that after two w = (1 - 2 rate) s."""
    one = tree_map(lambda x: x.unsqueeze(0), Episode(SUPPORT, SUPPORT))
    found = meta_grad(Adaptation(Besides(), SGD(RATE).double(), 2), one, batching=batching)
    w = (1 - 2 * RATE) * 1.5
    assert float(found.losses[0]) == pytest.approx(w**2)
    assert float(found.grads["learner.w"]) == pytest.approx(2 * w * (1 - 2 * RATE))


def test_losses_of_several_steps_need_the_steps() -> None:
    adaptation = Adaptation(Scalar(), SGD(RATE).double(), 2, "implicit:2")
    with pytest.raises(ValueError, match="goes through the steps"):
        adaptation(Episode(SUPPORT, SUPPORT), torch.ones(2))


def test_dropout_drops_the_same_when_steps_are_recomputed() -> None:
    network = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 2)).double()
    given = Examples(torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 2)
    found = []
    for recompute in (False, True):
        adaptation = Adaptation(MAML(network), SGD(0.3).double(), 2, recompute=recompute)
        torch.manual_seed(4)
        loss = adaptation(Episode(given, given)).loss
        found.append(torch.autograd.grad(loss, list(network.parameters())))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_batch_normalisation_that_changes_itself_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'network.1' keeps running statistics"):
        Adaptation(MAML(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))), SGD(0.1), 1)
    Adaptation(MAML(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False))), SGD(0.1), 1)


def test_prediction_after_adapting() -> None:
    adaptation = Adaptation(MAML(MLP([16, 6, 5])), SGD(0.1), 3)
    episode = GaussianClasses().sample(seeded(0))
    fast, network = adaptation.adapt(episode.support), adaptation.learner.network
    assert torch.equal(
        adaptation.predict(episode.support, episode.query.x), adaptation.learner.predict(fast, episode.query.x)
    )
    assert torch.equal(adaptation.predict(episode.support, episode.query.x, 0), network(episode.query.x))


def test_weights_of_steps_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="one for each of the 3 steps; got 1"):
        Adaptation(MAML(MLP([16, 5])), SGD(0.1), 3)(GaussianClasses().sample(seeded(0)), torch.ones(1))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_labels_of_any_whole_kind(dtype: torch.dtype) -> None:
    adaptation, episode = Adaptation(MAML(MLP([16, 5])), SGD(0.1), 1), GaussianClasses().sample(seeded(0))
    other = Episode(*(Examples(part.x, part.y.to(dtype)) for part in episode))
    assert torch.equal(adaptation(other).loss, adaptation(episode).loss)

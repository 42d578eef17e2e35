import pytest
import torch
from torch import Tensor

from l2o.learners import (
    MAML,
    MLP,
    Adaptation,
    Conv4,
    MAMLPlusPlus,
    MetaCurvature,
    MetaLSTMRule,
    MetaSGD,
    StepRates,
    adapt,
    meta_grad,
    shapes_of,
)
from l2o.learners.gradient.meta_curvature import modes_of
from l2o.rules import SGD
from l2o.tasks.episodes import Episode, Examples
from l2o.types import seeded

SUPPORT = Examples(torch.randn(6, 3, generator=seeded(0)), torch.randn(6, 1, generator=seeded(1)))
IMAGES = Examples(torch.rand(6, 1, 8, 8, generator=seeded(2)), torch.arange(3).repeat(2))


@pytest.fixture
def learner() -> MAML:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MAML(MLP([3, 4, 1]))


@pytest.fixture
def images() -> MAML:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MAML(Conv4(3, width=4, size=8, depth=2))


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cls", [MetaSGD, MetaCurvature, StepRates])
def test_fresh_ones_are_sgd(cls: type, learner: MAML, images: MAML) -> None:
    for of, support in ((learner, SUPPORT), (images, IMAGES)):
        rule = cls(shapes_of(of), lr=0.1)
        assert_same(adapt(of, rule, support, 3), adapt(of, SGD(0.1), support, 3))


@pytest.mark.parametrize("cls", [MetaSGD, MetaCurvature, StepRates])
def test_other_fast_variables_are_refused(cls: type, learner: MAML, images: MAML) -> None:
    with pytest.raises(ValueError, match="names and shapes that the rule was made for"):
        adapt(images, cls(shapes_of(learner)), IMAGES, 1)


def test_meta_sgd_has_a_rate_for_every_coordinate(learner: MAML) -> None:
    rule = MetaSGD(shapes_of(learner), lr=0.1)
    rates = dict(zip(rule.shapes, rule.rates, strict=True))
    with torch.no_grad():
        rates["head.weight"][0, 2] = -1.0
    grads = {name: torch.ones(shape) for name, shape in rule.shapes.items()}
    params = dict(learner.network.named_parameters())
    updates, _ = rule(grads, rule.init(params), params)
    expected = torch.full((1, 4), -0.1)
    expected[0, 2] = 1.0
    torch.testing.assert_close(updates["head.weight"], expected)
    drawn = torch.cat([rate.detach().flatten() for rate in MetaSGD(shapes_of(learner), lr=(0.005, 0.1)).rates])
    assert float(drawn.min()) >= 0.005 and float(drawn.max()) <= 0.1 and float(drawn.std()) > 0.01


def test_curvature_multiplies_every_mode() -> None:
    rule = MetaCurvature({"w": (2, 3, 2, 2)}, lr=1.0)
    assert modes_of((2, 3, 2, 2)) == (2, 3, 4) and modes_of(()) == (1,) and modes_of((5,)) == (5,)
    with torch.no_grad():
        for matrix in rule.modes:
            matrix += torch.randn(matrix.shape, generator=seeded(len(matrix)))
    grad = torch.randn(2, 3, 2, 2, generator=seeded(9))
    params = {"w": torch.zeros(2, 3, 2, 2)}
    updates, _ = rule({"w": grad}, rule.init(params), params)
    outer, inner, rest = rule.modes
    expected = -torch.einsum("ai,bj,ck,ijk->abc", outer, inner, rest, grad.view(2, 3, 4)).view(2, 3, 2, 2)
    torch.testing.assert_close(updates["w"], expected)


def test_every_step_has_its_rates_and_the_last_ones_go_on(learner: MAML) -> None:
    rule = StepRates(shapes_of(learner), num_steps=2, lr=0.0)
    with torch.no_grad():
        rule.rates[0], rule.rates[1] = 0.1, 0.3
    by_hand = adapt(learner, SGD(0.1), SUPPORT, 1)
    moving = MAML(MLP([3, 4, 1]))
    moving.network.load_state_dict(by_hand)
    assert_same(adapt(learner, rule, SUPPORT, 4), adapt(moving, SGD(0.3), SUPPORT, 3))


def test_each_step_has_its_own_normalisation() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Conv4(3, width=4, size=8, depth=2)
        plain = MAML(network, frozen=("norms.",))
        learner = MAMLPlusPlus(network, num_steps=2)
    assert not any(name.startswith("norms") for name in learner.start(IMAGES))
    assert_same(adapt(learner, SGD(0.1), IMAGES, 2), adapt(plain, SGD(0.1), IMAGES, 2))
    adaptation = Adaptation(learner, SGD(0.1), 2)
    one = Episode(Examples(IMAGES.x[None], IMAGES.y[None]), Examples(IMAGES.x[None], IMAGES.y[None]))
    grads = meta_grad(adaptation, one).grads
    assert "learner.network.norms.0.weight" not in grads
    # rows: what the first step, the second, and the query see
    assert (grads["learner.weights.0"].abs().sum(1) > 0).all()
    with torch.no_grad():
        learner.biases[0][2] += 5.0
    fast = adapt(learner, SGD(0.1), IMAGES, 2)
    assert_same(fast, adapt(plain, SGD(0.1), IMAGES, 2))
    torch.testing.assert_close(learner.predict(fast, IMAGES.x), learner.predict_at(fast, IMAGES.x, 7))
    assert not torch.allclose(learner.predict(fast, IMAGES.x), learner.predict_at(fast, IMAGES.x, 1))
    with pytest.raises(ValueError, match="must have BatchNorm layers"):
        MAMLPlusPlus(MLP([3, 1]))


def test_the_cell_of_the_lstm_is_the_weight() -> None:
    """c <- f c - i g, with the gates that the state tells."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rule = MetaLSTMRule(hidden_size=3)
    params, grads = {"w": torch.tensor([[1.0, -2.0]]), "b": torch.tensor(0.5)}, {}
    grads = {"w": torch.tensor([[0.3, -1e-6]]), "b": torch.tensor(-2.0)}
    state = rule.init(params)
    for _ in range(2):
        updates, state = rule(grads, state, params, torch.tensor(1.7))
        for name, p in params.items():
            i, f = state.slots[name]["gates"]
            torch.testing.assert_close(p + updates[name], f * p - i * grads[name])
            assert (i < 0.02).all() and (f > 0.97).all()  # a fresh one hardly moves and hardly forgets
    without, _ = rule(grads, rule.init(params), params)
    assert all(value.isfinite().all() for value in without.values())


def test_parts_of_a_network_adapt() -> None:
    network = MLP([3, 4, 1])
    head, body = MAML(network, adapted=("head.",)), MAML(network, frozen=("head.",))
    assert set(head.start(SUPPORT)) == {"head.weight", "head.bias"}
    assert set(body.start(SUPPORT)) == {"hidden.0.weight", "hidden.0.bias"}
    assert set(MAML(network).start(SUPPORT)) == {*head.start(SUPPORT), *body.start(SUPPORT)}
    for wrong in ({"adapted": ("tail",)}, {"adapted": ("head.",), "frozen": ("head.",)}):
        with pytest.raises(ValueError, match="must"):
            MAML(network, **wrong)
    torch.testing.assert_close(MAML(network).predict(MAML(network).start(SUPPORT), SUPPORT.x), network(SUPPORT.x))


def test_shared_weights_adapt_together() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    network[1].weight = network[0].weight
    learner = MAML(network)
    fast = {name: torch.zeros_like(value) for name, value in learner.start(SUPPORT).items()}
    assert not learner.predict(fast, SUPPORT.x).any()

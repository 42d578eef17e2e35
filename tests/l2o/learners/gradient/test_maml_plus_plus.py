from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from l2o.learners import MAML, MLP, Adaptation, Conv4, MAMLPlusPlus, StepRates, adapt, meta_grad, shapes_of
from l2o.learners.batch_norm import BatchNorm
from l2o.rules import SGD
from l2o.tasks.episodes import Episode, Examples
from l2o.types import seeded, tree_map

RATE, STEPS = 0.1, 2
SUPPORT = Examples(torch.randn(6, 3, generator=seeded(0)), torch.randn(6, 1, generator=seeded(1)))
IMAGES = Examples(torch.rand(6, 1, 8, 8, generator=seeded(2)), torch.arange(3).repeat(2))
OTHERS = Examples(torch.rand(6, 1, 8, 8, generator=seeded(3)), torch.arange(3).repeat(2))
ONE = tree_map(lambda x: x.unsqueeze(0), Episode(IMAGES, OTHERS))


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    """Networks are the same in every run, whatever runs before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def network() -> Conv4:
    return Conv4(3, width=4, size=8, depth=2)


@pytest.fixture
def learner(network: Conv4) -> MAMLPlusPlus:
    """A learner whose steps differ."""
    learner = MAMLPlusPlus(network, STEPS)
    with torch.no_grad():
        for i, rows in enumerate([*learner.weights, *learner.biases]):
            rows += 0.3 * torch.randn(rows.shape, generator=seeded(i))
    return learner


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-6, msg=name)


def with_row(learner: MAMLPlusPlus, row: int) -> MAML:
    """Plain MAML with the normalisation of one step."""
    network = Conv4(3, width=4, size=8, depth=2)
    network.load_state_dict(learner.network.state_dict())
    with torch.no_grad():
        for norm, weight, bias in zip(network.norms, learner.weights, learner.biases, strict=True):
            norm.weight.copy_(weight[row])
            norm.bias.copy_(bias[row])
    return MAML(network, frozen=("norms.",))


def test_equal_rates_are_sgd() -> None:
    learner = MAML(MLP([3, 4, 1]))
    fast = adapt(learner, StepRates(shapes_of(learner), 2, lr=RATE), SUPPORT, 4)
    assert_same(fast, adapt(learner, SGD(RATE), SUPPORT, 4))


def test_every_step_has_its_rates_and_the_last_ones_go_on() -> None:
    learner = MAML(MLP([3, 4, 1]))
    rule = StepRates(shapes_of(learner), num_steps=2, lr=0.0)
    with torch.no_grad():
        rule.rates[0], rule.rates[1] = 0.1, 0.3
    moving = MAML(MLP([3, 4, 1]))
    moving.network.load_state_dict(adapt(learner, SGD(0.1), SUPPORT, 1))
    assert_same(adapt(learner, rule, SUPPORT, 4), adapt(moving, SGD(0.3), SUPPORT, 3))


def test_every_tensor_has_its_rates() -> None:
    shapes = {"b": (2,), "a": (2, 2)}
    rule = StepRates(shapes, num_steps=2)
    with torch.no_grad():
        rule.rates.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))  # columns: a, b
    params = {name: torch.zeros(shape) for name, shape in shapes.items()}
    grads = {name: torch.ones(shape) for name, shape in shapes.items()}
    state = rule.init(params)
    for a, b in ((1.0, 2.0), (3.0, 4.0), (3.0, 4.0)):
        updates, state = rule(grads, state, params)
        assert_same(updates, {"b": torch.full((2,), -b), "a": torch.full((2, 2), -a)})
    with pytest.raises(ValueError, match="names and shapes that the rule was made for"):
        rule.init({"a": params["a"]})
    for wrong in ({"num_steps": 0}, {"lr": -1.0}):
        with pytest.raises(ValueError, match="must"):
            StepRates(shapes, **wrong)


def test_a_fresh_one_is_maml_with_normalisation_that_does_not_adapt(network: Conv4) -> None:
    learner = MAMLPlusPlus(network, STEPS)
    plain = with_row(learner, 0)
    fast = adapt(learner, SGD(RATE), IMAGES, 3)
    assert not any(name.startswith("norms") for name in fast)
    assert_same(fast, adapt(plain, SGD(RATE), IMAGES, 3))
    torch.testing.assert_close(learner.predict(fast, OTHERS.x), plain.predict(fast, OTHERS.x))


def test_each_step_has_its_own_normalisation(learner: MAMLPlusPlus) -> None:
    """Step k is a step of plain MAML with row k, a prediction after k steps one with row k; the last row goes on."""
    fast = learner.start(IMAGES)
    for step in range(4):
        plain = with_row(learner, min(step, STEPS))
        torch.testing.assert_close(learner.predict_at(fast, OTHERS.x, step), plain.predict(fast, OTHERS.x))
        plain.network.load_state_dict({**plain.network.state_dict(), **fast})
        following = adapt(learner, SGD(RATE), IMAGES, step + 1)
        assert_same(following, adapt(plain, SGD(RATE), IMAGES, 1))
        fast = following
    assert torch.equal(learner.predict(fast, OTHERS.x), learner.predict_at(fast, OTHERS.x, STEPS))
    assert torch.equal(learner.inner_loss(fast, IMAGES), learner.inner_loss_at(fast, IMAGES, STEPS))


def test_the_loss_of_each_step_is_taken_with_its_own_normalisation(learner: MAMLPlusPlus) -> None:
    rule = SGD(RATE)
    rule.requires_grad_(False)
    adaptation = Adaptation(learner, rule, STEPS)
    last = meta_grad(adaptation, ONE).grads
    assert "learner.network.norms.0.weight" not in last  # each step has its own
    assert (last["learner.weights.0"].abs().sum(1) > 0).all()  # two rows for the steps, one for the query
    first = meta_grad(adaptation, ONE, weights=torch.tensor([1.0, 0.0])).grads
    assert (first["learner.weights.0"].abs().sum(1) > 0).tolist() == [True, True, False]
    alone = meta_grad(Adaptation(learner, rule, 1), ONE).grads
    assert_same(first, alone)


def test_statistics_are_those_of_the_batch_in_evaluation_too(learner: MAMLPlusPlus) -> None:
    fast = learner.start(IMAGES)
    training = learner.predict(fast, OTHERS.x)
    assert torch.equal(learner.eval().predict(fast, OTHERS.x), training)
    assert not torch.allclose(learner.predict(fast, OTHERS.x[:3]), training[:3])


def test_networks_without_such_normalisation_are_refused(network: Conv4) -> None:
    with pytest.raises(ValueError, match="must have BatchNorm layers"):
        MAMLPlusPlus(MLP([3, 1]))
    with pytest.raises(ValueError, match="statistics must be the batch's"):
        MAMLPlusPlus(Conv4(3, width=4, size=8, depth=2, norm="running"))
    with pytest.raises(ValueError, match="num_steps must be positive"):
        MAMLPlusPlus(network, 0)


def test_shared_weights_adapt_together() -> None:
    network = nn.Sequential(nn.Linear(3, 3), BatchNorm(3), nn.Linear(3, 3))
    network[2].weight = network[0].weight
    learner, x = MAMLPlusPlus(network), torch.randn(4, 3, generator=seeded(0))
    fast = {name: 2 * value for name, value in learner.start(Examples(x, x)).items()}
    expected = functional_call(network, {**fast, "2.weight": fast["0.weight"]}, (x,), tie_weights=False)
    torch.testing.assert_close(learner.predict(fast, x), expected)

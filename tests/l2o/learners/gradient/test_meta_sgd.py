from collections.abc import Iterator

import pytest
import torch
from torch.func import functional_call

from l2o.learners import (
    CAVIA,
    MAML,
    MLP,
    Adaptation,
    Conv4,
    MetaSGD,
    PrototypicalNetwork,
    WithContext,
    adapt,
    meta_grad,
    shapes_of,
)
from l2o.learners.gradient.meta_sgd import in_order
from l2o.rules import SGD
from l2o.tasks.episodes import Episode, Examples
from l2o.types import seeded, tree_map

SUPPORT = Examples(torch.randn(6, 3, generator=seeded(0)), torch.randn(6, 1, generator=seeded(1)))
QUERY = Examples(torch.randn(6, 3, generator=seeded(2)), torch.randn(6, 1, generator=seeded(3)))
SHAPES = {"head.bias": [1], "head.weight": [1, 4], "hidden.0.bias": [4], "hidden.0.weight": [4, 3]}


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    """Networks are the same in every run, whatever runs before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def learner() -> MAML:
    return MAML(MLP([3, 4, 1]))


@pytest.mark.parametrize("steps", [1, 3])
def test_equal_rates_are_sgd(learner: MAML, steps: int) -> None:
    fast = adapt(learner, MetaSGD(SHAPES, lr=0.1), SUPPORT, steps)
    plain = adapt(learner, SGD(0.1), SUPPORT, steps)
    assert fast.keys() == plain.keys() == SHAPES.keys()
    for name, value in plain.items():
        torch.testing.assert_close(fast[name], value)


def test_every_coordinate_has_its_rate_and_rates_may_be_negative() -> None:
    rule = MetaSGD(SHAPES, lr=0.1)
    with torch.no_grad():
        dict(zip(rule.shapes, rule.rates, strict=True))["head.weight"][0, 2] = -1.0
    params = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    grads = {name: torch.ones(shape) for name, shape in SHAPES.items()}
    updates, _ = rule(grads, rule.init(params), params)
    torch.testing.assert_close(updates["head.weight"], torch.tensor([[-0.1, -0.1, 1.0, -0.1]]))
    torch.testing.assert_close(updates["hidden.0.weight"], torch.full((4, 3), -0.1))


def test_the_gradient_of_a_rate_is_minus_the_product_of_the_gradients_before_and_after(learner: MAML) -> None:
    """After one step the query loss is L(w - rate g), so that its derivative by the rate is -g L'(w - rate g)."""
    adaptation = Adaptation(learner, MetaSGD(SHAPES, lr=(0.05, 0.1)), 1).double()
    episode = tree_map(lambda x: x.double(), Episode(SUPPORT, QUERY))
    found = meta_grad(adaptation, tree_map(lambda x: x.unsqueeze(0), episode)).grads
    slow = {name: p.detach().requires_grad_() for name, p in learner.network.named_parameters()}
    fast = {name: p.detach().requires_grad_() for name, p in adaptation.adapt(episode.support).items()}
    grads = []
    for weights, (x, y) in ((slow, episode.support), (fast, episode.query)):
        loss = (functional_call(learner.network, weights, (x,)) - y).square().mean()
        grads.append(dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True)))
    for i, name in enumerate(sorted(slow)):
        torch.testing.assert_close(found[f"rule.rates.{i}"], -grads[0][name] * grads[1][name], rtol=1e-10, atol=1e-12)


def test_rates_are_drawn_between_two_numbers() -> None:
    drawn = torch.cat([rate.detach().flatten() for rate in MetaSGD({"w": (50, 50)}, lr=(0.005, 0.1)).rates])
    assert 0.005 <= drawn.min() < 0.01 and 0.095 < drawn.max() <= 0.1
    assert drawn.mean() == pytest.approx(0.0525, abs=0.003)
    for wrong in (-0.1, (0.1, 0.005), (0.1,), (-0.1, 0.1)):
        with pytest.raises(ValueError, match="lr must be a rate"):
            MetaSGD(SHAPES, lr=wrong)


def test_other_fast_variables_are_refused(learner: MAML) -> None:
    rule = MetaSGD(SHAPES)
    for other in (MAML(Conv4(3, width=4, size=8, depth=2)), MAML(MLP([3, 5, 1])), MAML(MLP([3, 4, 1]), ("head.",))):
        with pytest.raises(ValueError, match="names and shapes that the rule was made for"):
            rule.init(other.start(SUPPORT))
    assert rule.init(learner.start(SUPPORT)).slots.keys() == SHAPES.keys()


def test_shapes_are_those_of_the_fast_variables(learner: MAML) -> None:
    assert shapes_of(learner) == SHAPES
    assert shapes_of(MAML(MLP([3, 4, 1]), adapted=("head.",))) == {"head.weight": [1, 4], "head.bias": [1]}
    assert shapes_of(CAVIA(WithContext(MLP([5, 4, 1])), num_context=2)) == {"context": [2]}
    classes = Examples(torch.zeros(4, 3), torch.tensor([0, 1, 0, 1]))
    assert shapes_of(PrototypicalNetwork(MLP([3, 7]), 2), classes) == {"prototypes": [2, 7]}


def test_the_order_of_names_means_nothing(learner: MAML) -> None:
    """A file keeps names in alphabetical order: rates must find theirs again."""
    backwards = {name: SHAPES[name] for name in sorted(SHAPES, reverse=True)}
    assert list(in_order(backwards)) == list(in_order(SHAPES)) == sorted(SHAPES)
    rule, other = MetaSGD(SHAPES, lr=(0.005, 0.1)), MetaSGD(backwards)
    other.load_state_dict(rule.state_dict())
    fast, again = adapt(learner, rule, SUPPORT, 2), adapt(learner, other, SUPPORT, 2)
    assert all(torch.equal(fast[name], again[name]) for name in SHAPES)

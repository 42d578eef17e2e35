from collections.abc import Callable
from functools import partial

import pytest
import torch

import l2o
from l2o.rules import OPEN, OptState
from l2o.rules.counted_noise import normal
from l2o.rules.open import NUM_FEATURES, dormancy, layer_places
from l2o.types import Params, seeded

# steps are compared with those of the published code in tests/l2o/test_released.py

PARAMS = {"a.weight": (4, 3), "a.bias": (4,), "b.weight": (2, 4), "b.bias": (2,), "log_std": ()}


def draw(seed: int = 0) -> Params:
    generator = seeded(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in PARAMS.items()}


def small(noisy: bool = True, **options: int | bool) -> OPEN:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rule = OPEN(hidden_size=6, gru_size=4, **options)
        with torch.no_grad():
            rule.net.weights[-1][2] = torch.randn(6) * noisy
    return rule


def step(rule: OPEN, state: OptState | None = None) -> Params:
    with torch.no_grad():
        return rule(draw(1), rule.init(draw(), 40) if state is None else state, draw())[0]


def test_it_has_19_features_and_the_published_sizes() -> None:
    assert NUM_FEATURES == 19
    assert sum(p.numel() for p in OPEN().parameters()) == 1211
    assert sum(p.numel() for p in OPEN(hidden_size=32, gru_size=16).parameters()) == 3571


def test_a_step_is_zero_on_average_over_all_coordinates() -> None:
    updates = torch.cat([u.flatten() for u in step(small()).values()])
    assert updates.abs().max() > 1e-4
    assert float(updates.mean()) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("shapes", "places"),
    [
        ([(4, 3), (4,), (2, 4), (2,)], [0, 0, 1, 1]),
        ([(4,), (4, 3), (4,), (2, 4)], [0, 0.5, 0.5, 1]),
        ([(8, 3, 3, 3), (8,), (8,), (5, 2), (), (5, 5)], [0, 0, 0, 0.5, 0.5, 1]),
        ([(3,), ()], [0, 0]),
        ([], []),
    ],
)
def test_a_matrix_begins_a_layer(shapes: list[tuple[int, ...]], places: list[float]) -> None:
    assert layer_places(shapes) == places


def test_proportions_follow_from_the_step() -> None:
    rule = OPEN(num_epochs=2, num_minibatches=3)
    state = rule.init(draw(), 24)  # four batches of data
    found = [[float(x) for x in rule._proportions(state._replace(step=torch.tensor(i)))] for i in (0, 2, 3, 5, 6, 23)]
    expected = [[0, 0], [0, 0], [0, 1], [0, 1], [1 / 3, 0], [1, 1]]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected, dtype=torch.float32))
    assert [float(x) for x in rule._proportions(rule.init(draw())._replace(step=torch.tensor(9)))] == [0, 1]


def test_dormancy_is_one_until_it_is_told() -> None:
    rule = small()
    state = rule.init(draw(), 40)
    equal = rule.tell(state, activations={"a.weight": torch.full((4,), 0.3), "log_std": torch.tensor([5.0])})
    torch.testing.assert_close(step(rule, equal), step(rule, state))
    told = rule.tell(state, activations={"a.weight": torch.tensor([1.0, 2.0, 0.0, 1.0])})
    assert told.slots["a.weight"]["dormancy"].flatten().tolist() == pytest.approx([1.0, 2.0, 0.0, 1.0], abs=1e-6)
    assert told.slots["a.weight"]["dormancy"].shape == (4, 1)
    assert (state.slots["a.weight"]["dormancy"] == 1).all(), "telling is pure"
    assert not torch.equal(step(rule, told)["a.weight"], step(rule, state)["a.weight"])


def test_layers_may_be_told() -> None:
    rule = small()
    state = rule.tell(rule.init(draw(), 40), layers={"log_std": 0.25})
    assert float(state.slots["log_std"]["layer"]) == 0.25


def test_noise_follows_from_seed_and_step_and_can_be_switched_off() -> None:
    first, again, other = step(small()), step(small()), step(small(seed=1))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first["a.weight"], other["a.weight"])
    silent = step(small(noise=False))
    torch.testing.assert_close(silent, step(small(noisy=False)), rtol=0, atol=0)
    rule = small()
    off = rule.tell(rule.init(draw(), 40), noise=dict.fromkeys(PARAMS, False))
    torch.testing.assert_close(step(rule, off), silent, rtol=0, atol=0)


def test_noise_is_normal_and_differs_by_tensor_step_and_seed() -> None:
    like = torch.zeros(200, 500)
    xs = [normal(torch.tensor(s), torch.tensor(t), i, like) for s, t, i in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    for x in xs:
        assert abs(float(x.mean())) < 0.01
        assert float(x.std()) == pytest.approx(1.0, abs=0.01)
        assert float((x.abs() < 1).float().mean()) == pytest.approx(0.6827, abs=0.005)
    correlations = torch.corrcoef(torch.stack([x.flatten() for x in xs]))
    assert (correlations - torch.eye(4)).abs().max() < 0.015
    neighbours = torch.corrcoef(torch.stack([xs[0].flatten()[:-1], xs[0].flatten()[1:]]))
    assert neighbours[0, 1].abs() < 0.015


def test_the_drop_in_can_be_told_what_the_rule_does_not_see() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 3))
    optimizer = l2o.LearnedOptimizer([weight], small(), total_steps=10)
    weight.square().sum().backward()
    optimizer.step()
    slot = optimizer.state[weight]["dormancy"]
    slot.copy_(dormancy(torch.tensor([1.0, 2.0, 0.0, 1.0]), slot))
    optimizer.step()
    assert optimizer.state[weight]["dormancy"].flatten().tolist() == pytest.approx([1.0, 2.0, 0.0, 1.0], abs=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(OPEN, gru_size=0), "a network needs a unit"),
        (partial(OPEN, num_epochs=0), "num_epochs and num_minibatches must be >= 1"),
        (partial(OPEN, step_scale=0.0), "step_scale must be > 0"),
        (lambda: OPEN().tell(OPEN().init(draw()), layers={"c": 0.5}), "of a tensor that is trained.*name='c'"),
        (lambda: OPEN().tell(OPEN().init(draw()), activations={"a.bias": torch.ones(3)}), "one number for each neuron"),
    ],
)
def test_bad_arguments_are_refused(make: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

"""Factors on hyperparameters: 1 leaves them, others multiply what the scale says."""

import pytest
import torch

from l2o.agents.factors import SCALES, knobs_around, moved, scaled
from l2o.agents.losses import Hyperparameters

BASE = Hyperparameters(learning_rate=1.0, discount=0.98, value=0.02)


def test_factors_of_one_change_nothing():
    same = scaled(BASE, dict.fromkeys(SCALES, 1.0))
    assert same == pytest.approx(BASE) and (same.learning_rate, same.value, same.clip) == (1.0, 0.02, 0.2)


def test_a_factor_multiplies_a_number_or_its_distance_from_one():
    found = scaled(BASE, {"learning_rate": 3.0, "discount": 2.0, "decay": torch.tensor([0.5, 1e6])})
    assert found.learning_rate == 3.0 and found.discount == pytest.approx(0.96)
    torch.testing.assert_close(found.decay, torch.tensor([0.975, 0.0]))


def test_knobs_lie_around_the_present_and_there_is_none_for_nothing():
    knobs = knobs_around(BASE, reach=5.0)
    assert "entropy" not in knobs  # it is 0, and no factor would change that
    assert (knobs["learning_rate"].low, knobs["learning_rate"].high) == (0.2, 5.0)
    assert knobs["discount"].low == pytest.approx(0.9) and knobs["discount"].high == pytest.approx(0.996)
    for name, knob in knobs.items():
        x = torch.tensor(float(getattr(BASE, name)))
        torch.testing.assert_close(knob.value(knob.raw(x)), x)


def test_where_knobs_were_moved_is_where_factors_lead():
    knobs, factors = knobs_around(BASE), dict.fromkeys(SCALES, 2.0)
    present = scaled(BASE, factors)
    knobs = knobs_around(present)
    to = {"learning_rate": 6.0, "discount": 0.9, "decay": 0.8, "clip": 0.1, "value": 0.2, "max_grad_norm": 0.3}
    raw = {name: knobs[name].raw(torch.full((3,), x)) for name, x in to.items()}
    after = scaled(BASE, moved(factors, knobs, present, raw))
    for name, x in to.items():
        assert getattr(after, name) == pytest.approx(x, rel=1e-4), name
    assert moved(factors, knobs, present, raw)["entropy"] == 2.0

import math

import pytest
import torch

from l2o.estimators import Truncation
from l2o.types import seeded


def test_drawn_horizons_are_multiples_of_the_window_within_the_bounds():
    drawn = Truncation(window=7, horizon=(20, 90), stagger=True).draw(5000, seeded(0))
    assert (drawn % 7 == 0).all()
    assert drawn.min() >= 20 and drawn.max() < 90 + 7  # rounded up
    assert set(drawn.tolist()) == set(range(21, 92, 7))


def test_drawn_horizons_are_log_uniform():
    """Kolmogorov-Smirnov distance of the logarithms from uniform: 1.95 / sqrt(n) is exceeded once in a thousand."""
    low, high, num = 200, 20_000, 20_000
    drawn = Truncation(window=1, horizon=(low, high), stagger=True).draw(num, seeded(0)).double()
    # rounding up moves a horizon by less than one step: compare where F has been rounded as well
    points = torch.arange(low + 1, high).double()
    below = torch.searchsorted(drawn.sort().values, points, right=True) / num
    expected = (points / low).log() / math.log(high / low)
    assert float((below - expected).abs().max()) < 1.95 / math.sqrt(num)


def test_without_stagger_all_problems_share_one_drawn_horizon():
    truncation, generator = Truncation(window=1, horizon=(20, 90)), seeded(0)
    drawn = [truncation.draw(5, generator) for _ in range(20)]
    assert all(len(set(horizons.tolist())) == 1 for horizons in drawn)
    assert len({int(horizons[0]) for horizons in drawn}) > 5


def test_a_fixed_horizon_draws_nothing():
    generator = seeded(0)
    before = generator.get_state()
    assert Truncation(window=5, horizon=20).draw(3, generator).tolist() == [20, 20, 20]
    assert torch.equal(generator.get_state(), before)


def test_horizons_shorter_than_the_window_become_one_window():
    assert set(Truncation(window=50, horizon=(2, 40)).draw(100, seeded(0)).tolist()) == {50}


def test_staggered_problems_begin_on_window_edges_with_at_least_one_window_to_go():
    truncation = Truncation(window=5, horizon=20, stagger=True)
    ages = truncation.offsets(torch.full((2000,), 20), seeded(0))
    counts = torch.bincount(ages // 5, minlength=4)
    assert (ages % 5 == 0).all() and len(counts) == 4
    # each with probability 1/4: 4 standard deviations
    assert ((counts - 500).abs() < 4 * math.sqrt(2000 * 3 / 16)).all()


def test_problems_begin_at_age_zero_unless_staggered():
    ages = Truncation(window=5, horizon=20).offsets(torch.tensor([20, 20]), seeded(0))
    assert ages.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"window": 0}, "window must be at least 1"),
        ({"window": 30, "horizon": 100}, "multiple of window"),
        ({"horizon": (50, 20)}, "low <= high"),
        ({"horizon": 0}, "positive"),
    ],
)
def test_lengths_that_make_no_sense_are_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        Truncation(**wrong)

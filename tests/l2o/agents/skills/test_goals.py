import pytest
import torch

from l2o.agents.skills.goals import ALPGMM, Tried
from l2o.types import seeded


def test_progress_is_the_change_from_the_nearest_goal_before():
    goals = ALPGMM(1, size=12)
    tried = goals.init(2)
    for place, outcome in ((0.1, 0.2), (0.9, 0.5), (0.2, 1.0), (0.8, 0.4)):
        tried = goals.tried(tried, torch.full((2, 1), place), torch.full((2,), outcome))
    assert tried.progress[0].tolist() == pytest.approx([0.0, 0.3, 0.8, 0.1])
    for _ in range(20):
        tried = goals.tried(tried, torch.full((2, 1), 0.5), torch.zeros(2))
    assert tried.goal.shape == (2, 12, 1) and (tried.goal == 0.5).all()


def test_goals_come_from_where_outcomes_change():
    """Progress in the corner of one lane, and in another corner of the other."""
    goals = ALPGMM(2, explore=0.1)
    place = torch.rand(2, 250, 2, generator=seeded(0))
    corner = torch.stack([(place[0] < 0.3).all(-1), (place[1] > 0.7).all(-1)])
    tried = Tried(place, torch.zeros(2, 250), torch.where(corner, 0.5, 0.0))
    mixture = goals.fit(tried, seeded(1))
    assert mixture is not None and mixture.weight.sum(-1).tolist() == pytest.approx([1.0, 1.0])
    many = mixture._make(x.repeat_interleave(1000, dim=0) for x in mixture)
    chosen = goals.choose(many, torch.rand(2000, 4, generator=seeded(2)))
    assert ((chosen >= 0) & (chosen <= 1)).all()
    share = torch.stack([(chosen[:1000] < 0.35).all(-1), (chosen[1000:] > 0.65).all(-1)]).float().mean(-1)
    assert (share > 0.7).all()


def test_a_mixture_of_one_component_is_the_normal_distribution_of_its_points():
    goals = ALPGMM(2, num_components=1)
    place = torch.rand(3, 40, 2, generator=seeded(0))
    mixture = goals.fit(Tried(place, torch.zeros(3, 40), torch.rand(3, 40, generator=seeded(1))), seeded(2))
    assert mixture is not None
    torch.testing.assert_close(mixture.mean[:, 0], place.mean(1))
    covariance = mixture.factor[:, 0] @ mixture.factor[:, 0].mT
    for lane in range(3):
        torch.testing.assert_close(covariance[lane] - 1e-4 * torch.eye(2), torch.cov(place[lane].T, correction=0))


def test_before_enough_was_tried_goals_are_uniform():
    goals = ALPGMM(3)
    assert goals.fit(goals.init(2), seeded(0)) is None
    noise = torch.rand(2, 5, generator=seeded(0))
    assert torch.equal(goals.choose(None, noise), noise[:, 2:])
    with pytest.raises(ValueError, match="goals need"):
        ALPGMM(0)

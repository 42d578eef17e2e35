import pytest
import torch

from l2o.estimators import MetaLoss
from l2o.inner_loop import Lanes
from l2o.types import seeded
from tests.toys import LearnedMomentum, Regressions

INF, NAN = float("inf"), float("nan")


def judge(meta_loss, losses, initial=(2.0, 4.0), last=(True, True)):
    """The meta-loss of two lanes, given their training losses; their parameters and batches are fixed."""
    lanes = Lanes([Regressions().sample(seeded(i)) for i in range(2)], LearnedMomentum())
    params = lanes.reset([seeded(2), seeded(3)]).params
    batch = meta_loss.end_batch(lanes, seeded(4))
    losses = torch.tensor(losses, dtype=torch.float64)
    at_end = None if batch is None else lanes.losses(params, batch)
    found = meta_loss(lanes, losses, params, batch, torch.tensor(initial, dtype=torch.float64), torch.tensor(last))
    return found, at_end


LOSSES = [[1.0, 2.0], [3.0, 6.0]]


def test_mean_averages_the_windows_training_losses():
    assert judge(MetaLoss(), LOSSES)[0].tolist() == [2.0, 4.0]
    assert judge(MetaLoss(), LOSSES, last=(False, True))[0].tolist() == [2.0, 4.0]


def test_final_is_the_loss_at_the_end_and_zero_before():
    found, at_end = judge(MetaLoss("final"), LOSSES, last=(False, True))
    assert float(found[0]) == 0.0
    assert float(found[1]) == float(at_end[1]) < 5000


def test_tail_is_the_mean_of_the_last_fifth_at_the_end_and_zero_before():
    losses = torch.arange(20.0).view(10, 2).tolist()
    assert judge(MetaLoss("tail"), losses, last=(True, False))[0].tolist() == [17.0, 0.0]
    assert judge(MetaLoss("tail"), LOSSES)[0].tolist() == [3.0, 6.0]  # at least one step


def test_losses_below_the_floor_count_as_the_floor():
    assert judge(MetaLoss(floor=2.5), LOSSES)[0].tolist() == [2.75, 4.25]
    with pytest.raises(ValueError, match="floor must be below bound"):
        MetaLoss(floor=1.0, bound=1.0)


def test_validation_judges_the_end_of_every_window_on_validation_data():
    found, at_end = judge(MetaLoss("validation"), LOSSES, last=(False, True))
    assert torch.equal(found, at_end)
    assert (found > 5000).all()  # targets of validation batches are 100 off


def test_relative_divides_by_the_loss_at_the_start():
    assert judge(MetaLoss(relative=True), LOSSES)[0].tolist() == [1.0, 1.0]
    found, at_end = judge(MetaLoss("validation", relative=True), LOSSES)
    torch.testing.assert_close(found, at_end / torch.tensor([2.0, 4.0]).double())


def test_relative_to_a_negative_loss_keeps_the_sign():
    assert judge(MetaLoss(relative=True), LOSSES, initial=(-2.0, 4.0))[0].tolist() == [1.0, 1.0]


def test_losses_above_the_bound_or_not_finite_count_as_the_bound():
    assert judge(MetaLoss(bound=2.5), [[1.0, INF], [3.0, -INF]])[0].tolist() == [1.75, 2.5]
    assert judge(MetaLoss(bound=2.5), [[1.0, NAN], [2.0, 1.5]])[0].tolist() == [1.5, 2.0]
    assert judge(MetaLoss("validation", bound=7.0), LOSSES)[0].tolist() == [7.0, 7.0]


def test_the_bound_is_on_relative_losses_where_they_are_relative():
    assert judge(MetaLoss(relative=True, bound=1.0), LOSSES)[0].tolist() == [0.75, 0.75]


def test_without_a_bound_losses_that_are_not_finite_show():
    assert judge(MetaLoss(), [[1.0, INF], [3.0, 1.0]])[0].tolist() == [2.0, INF]


def test_unknown_reductions_are_refused():
    with pytest.raises(Exception, match="reduction"):  # a ValueError; where types are checked, theirs comes first
        MetaLoss("median")

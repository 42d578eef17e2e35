import pytest
import torch

from l2o.tasks.episodes import Examples
from tests.l2o.learners.neural_process.processes import episodes, make, one


def test_convolutions_move_with_their_inputs_and_tell_no_point_from_a_zero() -> None:
    learner = make("convcnp", domain=(-4.0, 4.0))
    support, query = one(episodes())
    here = learner.predict(learner.start(support), query.x)
    moved = learner.predict(learner.start(Examples(support.x + 1.0, support.y)), query.x + 1.0)  # 4 points of the grid
    torch.testing.assert_close(here, moved)
    zero = Examples(support.x[:1], torch.zeros_like(support.y[:1]))
    nothing = Examples(support.x[:0], support.y[:0])
    fields = [learner.start(s)["field"] for s in (zero, nothing)]
    assert not torch.allclose(*fields)
    with pytest.raises(ValueError, match=r"inputs must be on the grid, from -2\.5 to 2\.5"):
        make("convcnp").predict({}, torch.full((1, 1), 3.0).double())


def test_smoothing_between_grid_points_is_finite_however_narrow() -> None:
    learner, (support, query) = make("convcnp"), one(episodes())
    learner.log_widths.data.fill_(-9.0)  # type: ignore[attr-defined]
    loss = learner.query_loss(learner.start(support), query)
    loss.backward()
    assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in learner.parameters())

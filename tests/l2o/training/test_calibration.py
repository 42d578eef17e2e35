import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from l2o.learners import MLP, ConditionalNeuralProcess, LatentNeuralProcess
from l2o.tasks import gaussian_process_limits as limits
from l2o.tasks.episodes import Episode, Examples
from l2o.tasks.gaussian_process import FIXED_KERNEL, GaussianProcess, Hyperparameters
from l2o.tasks.gaussian_process_limits import posterior
from l2o.training.calibration import bands, below, calibration
from l2o.types import seeded


class Exact(ConditionalNeuralProcess):
    """The exact predictive of the fixed kernel, with deviations too large by a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__(width=2, depth=1, min_scale=0.0)
        self.factor = factor

    def start(self, support: Examples) -> dict[str, Tensor]:
        return dict(zip("xy", support, strict=True))

    def predict(self, fast: dict[str, Tensor], x: Tensor) -> Tensor:
        kernel = limits.fixed(FIXED_KERNEL)
        many = Hyperparameters(*(value.expand(len(x)) for value in kernel))
        said = posterior(FIXED_KERNEL, Episode(Examples(fast["x"], fast["y"]), Examples(x, x)), many)
        deviation = self.factor * said.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        raw = torch.log(torch.expm1(deviation))
        return torch.stack([said.mean, raw], dim=-1).unsqueeze(-2).float()


def test_the_exact_predictive_covers_what_it_promises() -> None:
    found = calibration(Exact(), FIXED_KERNEL, num_batches=40)
    for level, share, half in zip(found.levels, found.coverage, found.half_intervals, strict=True):
        assert abs(share - level) < 1.7 * half
    assert found.ranks == pytest.approx([0.1] * 10, abs=0.02)
    assert found.table().row_count == 4


def test_who_is_too_unsure_covers_too_much() -> None:
    found = calibration(Exact(2.0), FIXED_KERNEL, num_batches=10)
    expected = [float(2 * Normal(0, 1).cdf(2 * Normal(0, 1).icdf(torch.tensor(0.5 + p / 2))) - 1) for p in found.levels]
    assert found.coverage == pytest.approx(expected, abs=0.03)


def test_the_cumulative_distribution_of_a_mixture_is_the_mean_of_its_parts() -> None:
    parts = Normal(torch.tensor([[[-1.0], [2.0]]]), torch.tensor([[[0.5], [1.0]]]))
    said = MixtureSameFamily(Categorical(torch.ones(1, 2)), Independent(parts, 1))
    y = torch.tensor([[0.3]])
    drawn = said.sample((20000,)).flatten()
    assert float(below(said, y)) == pytest.approx(float((drawn < 0.3).double().mean()), abs=0.015)


def test_learners_of_all_kinds_are_judged_and_left_as_they_were() -> None:
    family = GaussianProcess(context=(5, 5), target=(4, 4))
    for learner in (
        ConditionalNeuralProcess(width=4, depth=2),
        LatentNeuralProcess(width=4, depth=2, num_samples=3),
        ConditionalNeuralProcess(inputs=3, width=4, depth=2, encoder=MLP([1, 3])),
    ):
        found = calibration(learner, family, 2, 4, (0.5,))
        assert 0 <= found.coverage[0] <= 1 and sum(found.ranks) == pytest.approx(1)
        assert learner.training


def test_pictures_have_a_panel_for_each_episode_with_its_points() -> None:
    pytest.importorskip("matplotlib")
    episodes = GaussianProcess(context=(5, 5), target=(4, 4)).sample_many(seeded(0), 3)
    drawn = bands(LatentNeuralProcess(width=4, depth=2, num_samples=3), episodes)
    panels = [axes for axes in drawn.axes if axes.get_visible()]
    assert len(panels) == 3
    dots = panels[1].lines[1]
    assert torch.equal(torch.tensor(dots.get_ydata()), episodes.support.y[1, :, 0])


def test_what_has_no_intervals_is_told() -> None:
    with pytest.raises(ValueError, match="this learner predicts labels"):
        calibration(ConditionalNeuralProcess(likelihood="categorical"), FIXED_KERNEL)
    with pytest.raises(ValueError, match="levels must be between 0 and 1"):
        calibration(ConditionalNeuralProcess(), FIXED_KERNEL, levels=(90.0,))

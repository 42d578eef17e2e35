import math

import torch

from l2o.tasks.sinusoid import Sinusoid
from l2o.types import seeded


def found(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Amplitude and phase by least squares: a sin(x - b) = (a cos b) sin x - (a sin b) cos x."""
    x, y = x.double(), y.double()
    sine, cosine = torch.linalg.lstsq(torch.cat([x.sin(), x.cos()], dim=-1), y).solution.squeeze(-1).unbind(-1)
    return torch.hypot(sine, cosine), torch.atan2(-cosine, sine)


def deviation_from_uniform(x: torch.Tensor, low: float, high: float) -> float:
    """Largest distance of the distribution function from the uniform one, times root n (Kolmogorov and Smirnov)."""
    x = ((x.flatten().double() - low) / (high - low)).sort().values
    steps = torch.arange(len(x) + 1, dtype=torch.float64) / len(x)
    return float(torch.maximum((x - steps[:-1]).abs().max(), (x - steps[1:]).abs().max())) * len(x) ** 0.5


def test_sinusoids_have_the_amplitudes_and_phases_of_the_paper() -> None:
    many = Sinusoid(shot=5, query=50).sample_many(seeded(0), 2000)
    assert many.support.x.shape == many.support.y.shape == (2000, 5, 1) and many.query.x.shape == (2000, 50, 1)
    amplitude, phase = found(*many.query)
    for value, low, high in ((amplitude, 0.1, 5.0), (phase, 0.0, math.pi), (many.query.x, -5.0, 5.0)):
        assert deviation_from_uniform(value, low, high) < 1.95  # p = .001
    assert 0.1 < float(amplitude.min()) < 0.115 and 4.985 < float(amplitude.max()) < 5.001
    assert abs(float(torch.corrcoef(torch.stack([amplitude, phase]))[0, 1])) < 3.3 / 2000**0.5


def test_support_and_query_lie_on_one_curve() -> None:
    many = Sinusoid(shot=10, query=10).sample_many(seeded(1), 100)
    amplitude, phase = (value.view(-1, 1, 1) for value in found(*many.support))
    for part in many:
        torch.testing.assert_close(amplitude * torch.sin(part.x - phase), part.y.double(), atol=1e-4, rtol=0)
    assert not torch.equal(many.support.x, many.query.x)


def test_one_episode_has_the_shape_of_many() -> None:
    episode = Sinusoid(shot=3, query=7).sample(seeded(2))
    assert episode.support.x.shape == (3, 1) and episode.query.y.shape == (7, 1)

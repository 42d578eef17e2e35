"""Small neural processes of every kind, and episodes for them."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from l2o.learners import (
    AttentiveNeuralProcess,
    ConditionalNeuralProcess,
    ConvolutionalNeuralProcess,
    LatentNeuralProcess,
    TransformerNeuralProcess,
)
from l2o.learners.neural_process.base import NeuralProcess
from l2o.learners.neural_process.paths import deviation
from l2o.tasks.episodes import Episode, Examples
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.tasks.gaussian_process import GaussianProcess
from l2o.types import seeded, tree_map

SMALL = {"width": 8, "depth": 2}
PROCESSES = {
    "cnp": lambda **given: ConditionalNeuralProcess(**SMALL, **given),
    "np": lambda **given: LatentNeuralProcess(**SMALL, num_samples=5, **given),
    "canp": lambda **given: AttentiveNeuralProcess(**SMALL, heads=2, latent=False, **given),
    "anp": lambda **given: AttentiveNeuralProcess(**SMALL, heads=2, num_samples=5, **given),
    "tnp-d": lambda **given: TransformerNeuralProcess(**SMALL, heads=2, hidden=8, **given),
    "tnp-a": lambda **given: TransformerNeuralProcess(**SMALL, heads=2, hidden=8, autoregressive=True, **given),
    "convcnp": lambda **given: ConvolutionalNeuralProcess(channels=4, depth=2, kernel=3, points_per_unit=4, **given),
}
FAMILY = GaussianProcess(context=(5, 5), target=(4, 4))
every_process = pytest.mark.parametrize("name", PROCESSES)


def make(name: str, **given: object) -> NeuralProcess:
    torch.manual_seed(0)
    made = PROCESSES[name](**given).double()
    for p in made.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return made


def episodes(num: int = 3, family: GaussianProcess = FAMILY) -> Episode:
    return tree_map(lambda x: x.double(), family.sample_many(seeded(1), num))


def one(of: Episode, i: int = 0) -> Episode:
    return tree_map(lambda x: x[i], of)


def classes(num: int = 3, dtype: torch.dtype = torch.float64, seed: int = 1) -> Episode:
    """Three classes of points on a line, two told of each and two asked."""
    drawn = GaussianClasses(1, 0.1, way=3, shot=2, query=2).sample_many(seeded(seed), num)
    return Episode(*(Examples(part.x.to(dtype).clamp(-2.0, 2.0), part.y) for part in drawn))


def normal_of(latent: Tensor) -> Normal:
    mean, raw = latent.unbind(-2)
    return Normal(mean, deviation(raw))

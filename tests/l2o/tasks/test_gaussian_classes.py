import pytest
import torch
from torch import Tensor

from l2o.tasks.episodes import Episode
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.types import seeded, tree_map


def nearest_prototype(family: GaussianClasses, episodes: Episode) -> Tensor:
    means = episodes.support.x.unflatten(1, (family.shot, family.way)).mean(1)
    return torch.cdist(episodes.query.x, means).argmin(-1)


def nearest_example(family: GaussianClasses, episodes: Episode) -> Tensor:
    near = torch.cdist(episodes.query.x, episodes.support.x).argmin(-1)
    return episodes.support.y.gather(1, near)


def bayes(family: GaussianClasses, episodes: Episode) -> Tensor:
    single = [tree_map(lambda x, i=i: x[i], episodes) for i in range(len(episodes.query.x))]
    return torch.stack([family.bayes(episode).argmax(-1) for episode in single])


@pytest.mark.parametrize(
    ("dim", "spread", "way", "shot", "exact"),
    [
        (16, 1.0, 5, 1, (0.830, 0.790, 0.790)),
        (16, 1.0, 5, 5, (0.946, 0.946, 0.876)),
        (16, 1.0, 20, 1, (0.601, 0.543, 0.543)),
        (16, 1.0, 20, 5, (0.846, 0.842, 0.683)),
        (64, 2.0, 5, 1, (0.684, 0.619, 0.619)),
        (64, 2.0, 5, 5, (0.923, 0.917, 0.759)),
    ],
)
def test_accuracies_are_the_exact_ones(
    dim: int, spread: float, way: int, shot: int, exact: tuple[float, float, float]
) -> None:
    family = GaussianClasses(dim, spread, way, shot, query=10)
    episodes = family.sample_many(seeded(0), 600)
    for predict, expected in zip((bayes, nearest_prototype, nearest_example), exact, strict=True):
        right = (predict(family, episodes) == episodes.query.y).double().mean(1)
        error = float(right.std()) / len(right) ** 0.5
        # the exact numbers were computed to a standard error of .003 themselves
        assert abs(float(right.mean()) - expected) < 3 * (error**2 + 0.003**2) ** 0.5, predict.__name__


def test_no_rule_beats_the_exact_one() -> None:
    family = GaussianClasses(dim=8, spread=1.5, way=5, shot=1, query=10)
    episodes = family.sample_many(seeded(1), 1000)
    best, other = (
        (predict(family, episodes) == episodes.query.y).double().mean(1) for predict in (bayes, nearest_prototype)
    )
    gain = best - other  # paired by episode
    assert float(gain.mean()) > 3 * float(gain.std()) / 1000**0.5


def test_its_probabilities_are_those_of_integrating_over_the_means() -> None:
    """One number per input: p(query | class) = integral of N(query; m, s^2) p(m | support) dm, on a grid."""
    family = GaussianClasses(dim=1, spread=0.7, way=3, shot=2, query=4)
    episode = family.sample(seeded(2))
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)

    def density(x: Tensor) -> Tensor:
        return torch.exp(-0.5 * ((x.double().unsqueeze(-1) - grid) / 0.7) ** 2)  # (..., grid)

    prior = torch.exp(-0.5 * grid**2)
    members = episode.support.x.view(2, 3)
    posterior = prior * density(members).prod(0)  # (way, grid)
    posterior = posterior / posterior.sum(-1, keepdim=True)
    expected = density(episode.query.x) @ posterior.T.unsqueeze(0)  # (queries, 1, way)
    expected = expected.squeeze(1) / expected.squeeze(1).sum(-1, keepdim=True)
    torch.testing.assert_close(family.bayes(episode).softmax(-1).double(), expected, atol=1e-5, rtol=0)


def test_its_probabilities_are_calibrated() -> None:
    family = GaussianClasses(dim=4, spread=0.7, way=3, shot=2, query=20)
    many, excess = family.sample_many(seeded(1), 400), []
    for i in range(400):
        episode = tree_map(lambda x, i=i: x[i], many)
        chance = family.bayes(episode).softmax(1)
        excess.append((chance.amax(1) - (chance.argmax(1) == episode.query.y).float()).mean())
    difference = torch.stack(excess).double()
    assert abs(float(difference.mean())) < 3 * float(difference.std()) / 400**0.5


def test_rows_are_shot_major_and_as_far_from_their_means_as_told() -> None:
    family = GaussianClasses(dim=5, spread=0.01, way=4, shot=3, query=2)
    many = family.sample_many(seeded(3), 300)
    assert many.support.x.shape == (300, 12, 5) and many.query.x.shape == (300, 8, 5)
    assert torch.equal(many.support.y, torch.arange(4).repeat(3).expand(300, -1))
    assert torch.equal(many.query.y, torch.arange(4).repeat(2).expand(300, -1))
    x = torch.cat([many.support.x, many.query.x], dim=1).unflatten(1, (5, 4))
    assert float(x.std(dim=1).square().mean().sqrt()) == pytest.approx(0.01, rel=0.03)
    assert float(x.mean(dim=1).std()) == pytest.approx(1.0, rel=0.04)

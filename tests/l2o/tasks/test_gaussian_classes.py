import pytest
import torch
import torch.nn.functional as F

from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.types import seeded, tree_map


@pytest.mark.parametrize(
    ("way", "shot", "bayes", "prototype", "nearest"),
    [(5, 1, 0.830, 0.790, 0.790), (5, 5, 0.946, 0.946, 0.876), (20, 1, 0.601, 0.543, 0.543)],
)
def test_accuracies_are_the_exact_ones(way: int, shot: int, bayes: float, prototype: float, nearest: float) -> None:
    family = GaussianClasses(dim=16, spread=1.0, way=way, shot=shot, query=10)
    many = family.sample_many(seeded(0), 400)
    hits = {"bayes": 0.0, "prototype": 0.0, "nearest": 0.0}
    for i in range(400):
        episode = tree_map(lambda x, i=i: x[i], many)
        support, query = episode
        means = F.one_hot(support.y, way).T.float() @ support.x / shot
        hits["bayes"] += float((family.bayes(episode).argmax(1) == query.y).float().mean())
        hits["prototype"] += float((torch.cdist(query.x, means).argmin(1) == query.y).float().mean())
        hits["nearest"] += float((support.y[torch.cdist(query.x, support.x).argmin(1)] == query.y).float().mean())
    for name, exact in (("bayes", bayes), ("prototype", prototype), ("nearest", nearest)):
        assert abs(hits[name] / 400 - exact) < 0.015, name  # three standard errors


def test_log_probabilities_are_calibrated() -> None:
    family = GaussianClasses(dim=4, spread=0.7, way=3, shot=2, query=20)
    many, told, right = family.sample_many(seeded(1), 300), [], []
    for i in range(300):
        episode = tree_map(lambda x, i=i: x[i], many)
        chance = family.bayes(episode).softmax(1)
        told.append(chance.amax(1).mean())
        right.append((chance.argmax(1) == episode.query.y).float().mean())
    assert abs(float(torch.stack(told).mean() - torch.stack(right).mean())) < 0.015

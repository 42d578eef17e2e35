import math

import numpy as np
import pytest
import torch
from torch import nn

from l2o.learners import (
    MLP,
    Adaptation,
    MatchingNetwork,
    PrototypicalNetwork,
    RelationEncoder,
    RelationNetwork,
    RidgeHead,
    SiameseNetwork,
    SVMHead,
    meta_grad,
)
from l2o.learners.metric.prototypical import squared_distance
from l2o.learners.metric.siamese import pairs, verification_accuracy
from l2o.tasks.data import digits
from l2o.tasks.data.labelled import LabelledDataset
from l2o.tasks.episodes import Examples
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.training.judge import judge
from l2o.types import seeded

X, Y = torch.randn(6, 4, generator=seeded(0)), torch.tensor([0, 1, 2, 2, 1, 0])
SUPPORT, QUERY = Examples(X, Y), torch.randn(5, 4, generator=seeded(1))


@pytest.fixture(autouse=True)
def _seed() -> object:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("cls", [PrototypicalNetwork, SiameseNetwork, RidgeHead, SVMHead])
def test_the_order_of_the_support_set_is_of_no_meaning(cls: type) -> None:
    learner, order = cls(MLP([4, 6, 5])), torch.tensor([3, 1, 5, 0, 2, 4])
    a = learner.predict(learner.start(SUPPORT), QUERY)
    b = learner.predict(learner.start(Examples(X[order], Y[order])), QUERY)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_full_context_reads_the_support_set_in_order_and_without_it_does_not() -> None:
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    for full_context in (True, False):
        learner = MatchingNetwork(MLP([4, 6, 5]), full_context=full_context)
        a = learner.predict(learner.start(SUPPORT), QUERY)
        b = learner.predict(learner.start(Examples(X[order], Y[order])), QUERY)
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5) != full_context


def test_prototypes_are_means_and_scores_squared_distances() -> None:
    learner = PrototypicalNetwork(nn.Identity())
    fast = learner.start(SUPPORT)
    torch.testing.assert_close(
        fast["prototypes"], torch.stack([X[[0, 5]].mean(0), X[[1, 4]].mean(0), X[[2, 3]].mean(0)])
    )
    torch.testing.assert_close(learner.predict(fast, QUERY), -(torch.cdist(QUERY, fast["prototypes"]) ** 2))
    torch.testing.assert_close(squared_distance(QUERY, QUERY).diagonal(), torch.zeros(5), atol=1e-5, rtol=0)


def test_matching_is_attention_over_labels() -> None:
    learner = MatchingNetwork(nn.Identity(), full_context=False)
    fast = learner.start(SUPPORT)
    cosine = torch.nn.functional.cosine_similarity(QUERY[:, None], X[None], dim=-1)
    attention = cosine.softmax(1)
    torch.testing.assert_close(learner.attention(fast, QUERY), attention)
    expected = torch.stack([attention[:, c == Y].sum(1) for c in range(3)], dim=1)
    torch.testing.assert_close(learner.predict(fast, QUERY).exp(), expected)
    deep = MatchingNetwork(MLP([4, 6, 5]))
    torch.testing.assert_close(deep.predict(deep.start(SUPPORT), QUERY).exp().sum(1), torch.ones(5))


def test_relation_goes_over_pairs_without_making_them() -> None:
    learner = RelationNetwork(RelationEncoder(4, norm="none"), width=4, norm="none")
    images = torch.rand(6, 1, 28, 28, generator=seeded(2))
    fast = learner.start(Examples(images, Y))
    maps = learner.encoder(images)
    assert maps.shape == (6, 4, 5, 5)
    torch.testing.assert_close(fast["maps"][2], maps[2] + maps[3])
    found = learner.predict(fast, images[:2])
    module = learner.relation
    for q in range(2):
        for c in range(3):
            pair = torch.cat([fast["maps"][c], maps[q]]).unsqueeze(0)
            z = torch.max_pool2d(torch.relu(torch.conv2d(pair, module.conv1.weight, module.conv1.bias, padding=1)), 2)
            z = torch.max_pool2d(torch.relu(torch.conv2d(z, module.conv2.weight, module.conv2.bias, padding=1)), 2)
            score = torch.sigmoid(module.full2(torch.relu(module.full1(z.flatten(1)))))
            torch.testing.assert_close(found[q, c], score.squeeze(), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="at least 22 pixels"):
        learner.start(Examples(torch.rand(6, 1, 20, 20), Y))


@pytest.mark.parametrize("dim", [3, 20])
def test_ridge_solves_the_normal_equations(dim: int) -> None:
    """Fewer numbers than examples, and more."""
    learner = RidgeHead(nn.Identity(), regularisation=0.3, bias=False)
    x = torch.randn(6, dim, generator=seeded(3))
    weights = next(value for value in learner.start(Examples(x, Y)).values() if value.shape == (dim, 3))
    targets = torch.nn.functional.one_hot(Y, 3).float()
    gram = x.T @ x / 6 + 0.3 * torch.eye(dim)
    torch.testing.assert_close(weights, torch.linalg.solve(gram, x.T @ targets / 6), rtol=1e-4, atol=1e-5)


def test_support_vector_machines_are_those_of_scikit_learn() -> None:
    svm = pytest.importorskip("sklearn.svm")
    x = torch.randn(30, 5, generator=seeded(4)) + 2 * torch.eye(5)[torch.arange(30) % 3]
    y = torch.arange(30) % 3
    learner = SVMHead(nn.Identity(), cost=0.5, iterations=2000)
    ours = learner.predict(learner.start(Examples(x, y)), x).detach()
    theirs = svm.LinearSVC(C=0.5, multi_class="crammer_singer", fit_intercept=False, max_iter=10**6, tol=1e-8)
    scores = torch.from_numpy(theirs.fit(x.numpy(), y.numpy()).decision_function(x.numpy())).float()
    centred = [s - s.mean(1, keepdim=True) for s in (ours, scores)]
    torch.testing.assert_close(*centred, rtol=1e-2, atol=1e-2)


def test_same_is_symmetric_and_pairs_are_half_the_same() -> None:
    data = digits().train
    whole = LabelledDataset("digits", data.x, data.y)
    drawn = pairs(whole, 400, seeded(0))
    assert drawn.same.sum() == 200
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
    learner = SiameseNetwork(encoder, num_features=16)
    torch.testing.assert_close(learner.same(drawn.x1, drawn.x2), learner.same(drawn.x2, drawn.x1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(learner.same(drawn.x1, drawn.x1), learner.bias.expand(400))
    before = verification_accuracy(learner, drawn)
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-2)
    for i in range(60):
        batch = pairs(whole, 128, seeded(i + 1))
        loss = nn.functional.binary_cross_entropy_with_logits(learner.same(batch.x1, batch.x2), batch.same.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert verification_accuracy(learner, drawn) > max(0.8, before)


@pytest.mark.parametrize("cls", [PrototypicalNetwork, SiameseNetwork, MatchingNetwork, RidgeHead, SVMHead])
def test_learning_brings_all_near_the_limit(cls: type) -> None:
    family = GaussianClasses(dim=8, spread=0.5, way=4, shot=1, query=5)
    adaptation = Adaptation(cls(MLP([8, 32, 16]), 4))
    optimizer = torch.optim.Adam(adaptation.parameters(), lr=1e-2)
    before = judge(adaptation, family, 200, seed=1).score(0)[0]
    for i in range(60):
        found = meta_grad(adaptation, family.sample_many(seeded(100 + i), 8))
        for name, p in adaptation.named_parameters():
            p.grad = found.grads[name]
        optimizer.step()
    after = judge(adaptation, family, 200, seed=1).score(0)[0]
    assert after > before + 0.02 and after > 0.85 and not math.isnan(after)
    assert np.isfinite(after)

import pytest
import torch

from l2o.learners import (
    MLP,
    Adaptation,
    MatchingNetwork,
    PrototypicalNetwork,
    RidgeHead,
    SiameseNetwork,
    SVMHead,
    meta_grad,
)
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


@pytest.mark.parametrize("cls", [PrototypicalNetwork, SiameseNetwork, MatchingNetwork, RidgeHead, SVMHead])
def test_learning_brings_all_near_the_limit(cls: type) -> None:
    family = GaussianClasses(dim=8, spread=0.5, way=4, shot=1, query=5)
    options = {"iterations": 15} if cls is SVMHead else {}
    adaptation = Adaptation(cls(MLP([8, 32, 16]), 4, **options))
    optimizer = torch.optim.Adam(adaptation.parameters(), lr=1e-2)
    before = judge(adaptation, family, 200, seed=1).score(0)[0]
    for i in range(60):
        found = meta_grad(adaptation, family.sample_many(seeded(100 + i), 8))
        for name, p in adaptation.named_parameters():
            p.grad = found.grads[name]
        optimizer.step()
    after = judge(adaptation, family, 200, seed=1).score(0)[0]
    assert after > before + 0.02 and after > 0.85

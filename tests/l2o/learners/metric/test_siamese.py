import pytest
import torch
import torch.nn.functional as F
from torch import nn

from l2o.learners import MLP, SiameseNetwork
from l2o.learners.metric.siamese import pairs, verification_accuracy
from l2o.tasks.data import digits
from l2o.tasks.data.labelled import LabelledDataset
from l2o.tasks.episodes import Examples
from l2o.types import seeded

X, Y = torch.randn(6, 4, generator=seeded(0)), torch.tensor([0, 1, 2, 2, 1, 0])
QUERY = Examples(torch.randn(5, 4, generator=seeded(1)), torch.tensor([0, 2, 1, 1, 0]))


@pytest.fixture(autouse=True)
def _seed() -> object:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def learner() -> SiameseNetwork:
    made = SiameseNetwork(MLP([4, 6, 5]))
    nn.init.normal_(made.alpha)
    return made


@pytest.fixture
def numbers() -> LabelledDataset:
    data = digits().train
    return LabelledDataset("digits", data.x, data.y)


def test_the_score_of_a_class_is_the_mean_log_odds_over_its_examples(learner: SiameseNetwork) -> None:
    scores = learner.predict(learner.start(Examples(X, Y)), QUERY.x)
    for i, query in enumerate(QUERY.x):
        each = learner.same(query.expand(6, 4), X)
        expected = torch.stack([each[c == Y].mean() for c in range(3)])
        torch.testing.assert_close(scores[i], expected)


def test_the_loss_is_that_of_pairs_half_of_them_the_same(learner: SiameseNetwork) -> None:
    one_shot = Examples(X[:3], Y[:3])
    first = QUERY.x.repeat_interleave(3, dim=0)
    same = (QUERY.y.unsqueeze(1) == one_shot.y).flatten()
    weight = torch.where(same, 0.5 / same.sum(), 0.5 / (~same).sum())
    odds = learner.same(first, one_shot.x.repeat(5, 1))
    expected = F.binary_cross_entropy_with_logits(odds, same.float(), weight, reduction="sum")
    fast = learner.start(one_shot)
    torch.testing.assert_close(learner.query_loss(fast, QUERY), expected)
    torch.testing.assert_close(learner.query_loss(fast, QUERY, learner.predict(fast, QUERY.x)), expected)


def test_same_is_symmetric_and_of_equal_inputs_the_bias(learner: SiameseNetwork) -> None:
    torch.testing.assert_close(learner.same(X[:3], X[3:]), learner.same(X[3:], X[:3]))
    torch.testing.assert_close(learner.same(X, X), learner.bias.expand(6))


def test_pairs_are_what_they_are_said_to_be() -> None:
    """Inputs tell their class and their number in it."""
    counts = [2, 5, 3]
    y = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    x = torch.stack([y, torch.cat([torch.arange(n) for n in counts])], dim=1).float()
    drawn = pairs(LabelledDataset("three", x, y), 2001, seeded(0))
    assert drawn.same.sum() == 1001
    assert torch.equal(drawn.x1[:, 0] == drawn.x2[:, 0], drawn.same)
    assert not (drawn.x1 == drawn.x2).all(1).any()
    kinds = torch.stack([drawn.x1[:, 0], drawn.x2[:, 0]], dim=1)[~drawn.same].unique(dim=0)
    assert len(kinds) == 6  # every class beside every other
    again = pairs(LabelledDataset("three", x, y), 2001, seeded(0))
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))


def test_pairs_need_two_classes_of_two_examples() -> None:
    for y in ([0, 0, 0], [0, 0, 1]):
        with pytest.raises(ValueError, match="two classes or more, of two examples or more"):
            pairs(LabelledDataset("few", torch.zeros(3, 1), torch.tensor(y)), 4, seeded(0))


def test_verification_is_learned_and_how_many_at_a_time_does_not_matter(numbers: LabelledDataset) -> None:
    learner = SiameseNetwork(nn.Sequential(nn.Flatten(), MLP([64, 32, 16])), num_features=16)
    drawn = pairs(numbers, 400, seeded(0))
    before = verification_accuracy(learner, drawn)
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-2)
    for i in range(60):
        batch = pairs(numbers, 128, seeded(i + 1))
        loss = F.binary_cross_entropy_with_logits(learner.same(batch.x1, batch.x2), batch.same.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = verification_accuracy(learner, drawn)
    assert after > max(0.85, before + 0.1)
    assert after == verification_accuracy(learner, drawn, batch_size=7)

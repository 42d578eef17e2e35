import pytest
import torch
import torch.nn.functional as F
from torch import nn

from l2o.learners import MLP, SNAIL
from l2o.learners.black_box.snail import AttentionBlock, DenseBlock
from l2o.tasks.episodes import Examples
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.types import seeded
from tests.l2o.learners.black_box.training import accuracy_after

X, Y = torch.randn(6, 4, generator=seeded(0)), torch.tensor([0, 1, 2, 2, 1, 0])
SUPPORT, QUERY = Examples(X, Y), torch.randn(5, 4, generator=seeded(1))


@pytest.fixture(autouse=True)
def _seed() -> object:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def small(length: int = 7) -> SNAIL:
    return SNAIL(MLP([4, 5]), 3, length, filters=4, attention=((4, 3), (5, 3), (4, 2)))


@pytest.mark.parametrize("rows", [1, 3, 6])
@pytest.mark.parametrize("length", [2, 7, 30])
def test_queries_are_answered_as_at_the_end_of_a_sequence_of_their_own(length: int, rows: int) -> None:
    learner, support = small(length), Examples(X[:rows], Y[:rows])
    scores = learner.predict(learner.start(support), QUERY)
    labels = F.pad(torch.eye(3)[support.y], (0, 0, 0, 1))
    for x, score in zip(QUERY, scores, strict=True):
        sequence = torch.cat([learner.encoder(torch.cat([support.x, x.unsqueeze(0)])), labels], dim=-1)
        for block in learner.blocks:
            sequence, _ = block.read(sequence)
        torch.testing.assert_close(learner.head(sequence[-1]), score)


@pytest.mark.parametrize("block", [AttentionBlock(4, 3, 2), DenseBlock(4, 1, 3), DenseBlock(4, 4, 3)])
def test_no_row_sees_a_later_one(block: nn.Module) -> None:
    x = torch.randn(6, 4, generator=seeded(2))
    changed = torch.cat([x[:4], torch.randn(2, 4, generator=seeded(3))])
    before, after = block.read(x)[0], block.read(changed)[0]
    assert torch.equal(before[:4], after[:4]) and not torch.allclose(before[4:], after[4:])
    torch.testing.assert_close(before[:, :4], x)  # what came in stands in front of what was read


def test_attention_weighs_keys_for_each_query() -> None:
    block, x = AttentionBlock(4, 3, 2), torch.randn(6, 4, generator=seeded(2))
    rows, _ = block.read(x)
    q, k, v = block.queries(x), block.keys(x), block.values(x)
    for t in range(6):
        weights = torch.softmax(q[t] @ k[: t + 1].T / 3**0.5, dim=0)
        torch.testing.assert_close(rows[t, 4:], weights @ v[: t + 1])
    nn.init.zeros_(block.queries.weight)
    nn.init.zeros_(block.queries.bias)
    rows, memory = block.read(x)
    torch.testing.assert_close(rows[-1, 4:], memory["values"].mean(0))  # no preference among six keys


def test_convolutions_reach_over_the_whole_length_and_no_further() -> None:
    blocks = [block for block in small(length=8).blocks if isinstance(block, DenseBlock)]
    assert [block.dilation for block in blocks] == [1, 2, 4] * 2
    x = torch.zeros(9, blocks[0].now.in_features, requires_grad=True)
    rows = x
    for block in blocks[:3]:
        torch.nn.init.constant_(block.before.weight, 0.1)
        rows, _ = block.read(rows)
    (grad,) = torch.autograd.grad(rows[-1, -1], x)
    assert (grad[1:].abs().sum(1) > 0).all() and grad[0].abs().sum() == 0


def test_targets_are_read_as_they_are() -> None:
    learner = SNAIL(MLP([4, 5]), 2, 7, filters=3, attention=((4, 3),))
    support = Examples(X, torch.randn(6, 2))
    assert learner.predict(learner.start(support), QUERY).shape == (5, 2)
    assert learner.inner_loss(learner.start(support), support).isfinite()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [({"length": 1}, "length must be at least 2"), ({"attention": ()}, "attention must have")],
)
def test_what_makes_no_sense_is_told(arguments: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        SNAIL(**{"encoder": MLP([4, 5]), "outputs": 3, "length": 7, **arguments})


def test_learning_to_tell_three_classes_apart() -> None:
    family = GaussianClasses(dim=4, spread=0.2, way=3, shot=1, query=5)
    before, after = accuracy_after(
        lambda: SNAIL(MLP([4, 16]), 3, 4, filters=8, attention=((16, 16), (16, 16))), family, steps=100
    )
    assert before < 0.5 and after > 0.75

from functools import partial

import pytest
import torch
from torch import nn

from l2o.learners import MLP, RecurrentLearner
from l2o.learners.black_box.recurrent import GRULayer, LSTMLayer
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


def test_layers_are_those_of_torch() -> None:
    x = torch.randn(7, 4)
    for ours, theirs in ((LSTMLayer(4, 5), nn.LSTM(4, 5)), (GRULayer(4, 5), nn.GRU(4, 5))):
        inner = ours.cell if isinstance(ours, LSTMLayer) else ours
        with torch.no_grad():
            theirs.weight_ih_l0.copy_(inner.inputs.weight)
            theirs.weight_hh_l0.copy_(inner.recurrent.weight)
            theirs.bias_ih_l0.copy_(inner.inputs.bias)
            if isinstance(ours, LSTMLayer):  # whose forget gates have a bias of 1 besides
                theirs.bias_hh_l0.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat_interleave(5))
            else:
                theirs.bias_hh_l0.copy_(inner.recurrent.bias)
        outputs, last = ours.read(x)
        expected, state = theirs(x)
        torch.testing.assert_close(outputs, expected)
        for got, want in zip(last, state if isinstance(state, tuple) else (state,), strict=True):
            torch.testing.assert_close(got, want.squeeze(0))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_query_is_a_step_behind_the_support_set_that_leaves_no_trace(cell: str) -> None:
    learner = RecurrentLearner(nn.Identity(), 3, cell, size=5, num_layers=2, num_features=4)
    fast = learner.start(SUPPORT)
    kept = {name: value.clone() for name, value in fast.items()}
    scores = learner.predict(fast, QUERY)
    assert all(torch.equal(fast[name], value) for name, value in kept.items())
    labels = torch.cat([torch.eye(3)[Y], torch.zeros(1, 3)])
    for x, score in zip(QUERY, scores, strict=True):
        rows = torch.cat([torch.cat([X, x.unsqueeze(0)]), labels], dim=1)
        for layer in learner.layers:
            rows, _ = layer.read(rows)
        torch.testing.assert_close(learner.head(torch.cat([rows[-1], x])), score)


def test_what_was_said_of_the_support_set_is_remembered() -> None:
    learner = RecurrentLearner(MLP([4, 5]), 3)
    before = learner.predict(learner.start(SUPPORT), QUERY)
    other = learner.predict(learner.start(Examples(X, (Y + 1) % 3)), QUERY)
    assert (before - other).abs().max() > 1e-3


def test_targets_are_read_as_they_are() -> None:
    learner = RecurrentLearner(MLP([4, 5]), 2, "gru", size=5)
    support = Examples(X, torch.randn(6, 2))
    assert learner.predict(learner.start(support), QUERY).shape == (5, 2)
    assert learner.inner_loss(learner.start(support), support).isfinite()
    with pytest.raises(ValueError, match="targets must be rows of 2 numbers"):
        learner.start(Examples(X, torch.randn(6, 1)))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"cell": "rnn"}, "cell must be lstm or gru"),
        ({"size": 0}, "size and num_layers must be at least 1"),
        ({"outputs": 0}, "outputs must be at least 1"),
        ({"encoder": nn.Identity()}, "num_features must be given"),
    ],
)
def test_what_makes_no_sense_is_told(arguments: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RecurrentLearner(**{"encoder": MLP([4, 5]), "outputs": 3, **arguments})


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_learning_to_tell_three_classes_apart(cell: str) -> None:
    family = GaussianClasses(dim=4, spread=0.2, way=3, shot=1, query=5)
    make = partial(RecurrentLearner, MLP([4, 16]), 3, cell, size=32)
    before, after = accuracy_after(make, family, steps=100)
    assert before < 0.5 and after > 0.75

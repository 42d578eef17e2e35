from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from l2o.learners import DNC, MANN, MLP, NTM, Adaptation, EpisodicTask, MemoryLearner, OnlineLearner
from l2o.learners.memory.learner import inputs_for
from l2o.tasks.episodes import Episode, EpisodeFamily, Examples
from l2o.tasks.stream import labels_before
from l2o.types import seeded

DIM, WAY = 4, 3
X, Y = torch.randn(6, DIM, generator=seeded(0)), torch.tensor([0, 1, 2, 2, 1, 0])
SUPPORT, QUERY = Examples(X, Y), torch.randn(5, DIM, generator=seeded(1))
SIZES = {"controller": 6, "rows": 5, "width": 4}


def late() -> MemoryLearner:
    return MemoryLearner(nn.Identity(), MANN(inputs_for(DIM, WAY, late=True), WAY, **SIZES), late=True)


def early(core: type = NTM) -> MemoryLearner:
    return MemoryLearner(nn.Identity(), core(inputs_for(DIM, WAY), WAY, **SIZES))


def test_a_query_is_the_next_step_of_the_stream() -> None:
    """What the learner says of a query after its support set is what it says online of the example that comes next."""
    learner = late()
    said = learner.predict(learner.start(SUPPORT), QUERY)
    for i, x in enumerate(QUERY):
        stream = torch.cat([X, x.unsqueeze(0)]).unsqueeze(0)
        before = labels_before(torch.cat([Y, Y[:1]]).unsqueeze(0), WAY)  # its own label comes later than all this
        torch.testing.assert_close(OnlineLearner(learner)(stream, before)[0, -1], said[i])


@pytest.mark.parametrize("core", [NTM, DNC, MANN])
def test_rows_come_with_their_labels_and_queries_without_and_write_nothing(core: type) -> None:
    learner = early(core)
    said = learner.predict(learner.start(SUPPORT), QUERY)
    rows = torch.cat([X, F.one_hot(Y, WAY), torch.ones(6, 1)], dim=1)
    _, state = learner.core.unroll(rows)
    if core is DNC:  # it writes before it reads; the others read first
        with torch.no_grad():
            learner.core.write_head.bias[-1] = -1e4
    for i, x in enumerate(QUERY):
        last = torch.cat([x, torch.zeros(WAY + 1)])
        torch.testing.assert_close(learner.core.unroll(last.unsqueeze(0), state)[0][0], said[i])


def test_labels_and_every_row_matter() -> None:
    learner = early()
    before = learner.predict(learner.start(SUPPORT), QUERY)
    for i in range(6):
        y = Y.clone()
        y[i] = (y[i] + 1) % WAY
        assert not torch.allclose(learner.predict(learner.start(Examples(X, y)), QUERY), before, atol=1e-7)


def test_targets_are_shown_as_they_are() -> None:
    learner = MemoryLearner(nn.Identity(), NTM(inputs_for(DIM, 2), 2, **SIZES))
    support = Examples(X, torch.randn(6, 2, generator=seeded(2)))
    assert learner.predict(learner.start(support), QUERY).shape == (5, 2)
    assert learner.inner_loss(learner.start(support), support).isfinite()


class Cards(EpisodeFamily):
    """Different unit vectors under random labels; then each is asked for, in another order."""

    def sample(self, generator: torch.Generator) -> Episode:
        y, asked = torch.randperm(WAY, generator=generator), torch.randperm(WAY, generator=generator)
        x = torch.eye(DIM)[:WAY]
        return Episode(Examples(x, y), Examples(x[asked], y[asked]))


@pytest.mark.parametrize("make", [late, early])
def test_a_memory_learns_to_remember_what_it_saw_once(make: Callable[[], MemoryLearner]) -> None:
    task, generator = EpisodicTask(partial(adaptation, make), Cards(), num_episodes=32), seeded(0)
    leaves = {name: p.requires_grad_() for name, p in task.init(generator).items()}
    optimizer = torch.optim.Adam(leaves.values(), lr=0.02)
    losses = []
    for _ in range(120):
        loss = task.loss(leaves, task.sample_batch(generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 1.0 and sum(losses[-10:]) / 10 < 0.7  # without the support set 1.1


def adaptation(make: Callable[[], MemoryLearner]) -> Adaptation:
    return Adaptation(make())


def test_a_core_of_another_size_and_early_labels_in_a_stream_are_refused() -> None:
    with pytest.raises(ValueError, match="the core must take 8 inputs"):
        MemoryLearner(nn.Identity(), NTM(9, WAY)).start(SUPPORT)
    with pytest.raises(ValueError, match="labels must come late"):
        OnlineLearner(early())


def test_an_encoder_is_used() -> None:
    learner = MemoryLearner(MLP([DIM, 8, 3]), NTM(inputs_for(3, WAY), WAY, **SIZES))
    assert learner.predict(learner.start(SUPPORT), QUERY).shape == (5, WAY)

import pytest
import torch

from l2o.learners.neural_process.attention import attend
from l2o.tasks.episodes import Examples
from l2o.types import seeded
from tests.l2o.learners.neural_process.processes import classes, episodes, make, one


def test_attention_is_torchs_own() -> None:
    q, k, v = (torch.randn(2, n, 6, generator=seeded(n)).double() for n in (3, 4, 4))
    apart = [x.unflatten(-1, (2, 3)).transpose(1, 2) for x in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(*apart).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attend(q, k, v, 2), expected)
    torch.testing.assert_close(attend(q[0], k[0], v[0], 2), expected[0])  # of one episode, in plain operations
    assert torch.equal(attend(q, k[:, :0], v[:, :0], 2), torch.zeros_like(q))
    torch.autograd.gradgradcheck(lambda q: attend(q, k[0], v[0], 2), q[0].requires_grad_())


@pytest.mark.parametrize("name", ["tnp-d", "tnp-a"])
def test_a_transformers_one_pass_is_the_two_of_start_and_prediction(name: str) -> None:
    for learner, given in ((make(name), episodes()), (make(name, outputs=3, likelihood="categorical"), classes())):
        for episode in (given, one(given)):
            expected = learner.judged(learner.start(episode.support), episode.query, 0)
            torch.testing.assert_close(learner.feed_forward(episode), expected)


def test_an_autoregressive_process_is_told_what_came_before_and_nothing_else() -> None:
    learner, (support, query) = make("tnp-a"), one(episodes())
    fast = learner.start(support)
    before = learner.in_turn(fast, query)  # type: ignore[attr-defined]
    torch.testing.assert_close(before[0], learner.predict(fast, query.x)[0])
    y = query.y.clone()
    y[2] += 1.0
    after = learner.in_turn(fast, Examples(query.x, y))  # type: ignore[attr-defined]
    torch.testing.assert_close(after[:3], before[:3])
    assert not torch.allclose(after[3], before[3])

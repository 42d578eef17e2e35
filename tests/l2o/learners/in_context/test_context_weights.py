import pytest
import torch

from l2o.tasks.episodes import Examples
from l2o.types import seeded

pytest.importorskip("transformers")

from l2o.learners.in_context.text import InContextLanguageModel
from tests.l2o.learners.in_context.colours import FAMILY, LEARNERS, LONGEST, START, model


@pytest.mark.parametrize("name", ["lora", "context adapter"])
def test_a_low_rank_change_is_none_at_first_and_learns_from_the_first_step(name: str) -> None:
    m, episode = model(), FAMILY.sample(seeded(6))
    m.requires_grad_(False)
    learner, plain = LEARNERS[name](m), InContextLanguageModel(m, START, LONGEST)
    nothing = Examples(episode.support.x[:0], episode.support.y[:0])
    expected = plain.predict(plain.start(nothing), episode.query.x)
    torch.testing.assert_close(learner.predict(learner.start(episode.support), episode.query.x), expected)
    loss = learner.query_loss(learner.start(episode.support), episode.query)
    trained = [p for p in learner.parameters() if p.requires_grad]
    assert (
        max(float(g.abs().max()) for g in torch.autograd.grad(loss, trained, allow_unused=True) if g is not None) > 1e-6
    )


def test_a_context_adapter_reads_its_demonstrations() -> None:
    learner = LEARNERS["context adapter"](model())
    with torch.no_grad():
        learner.generator.scale.fill_(0.3)
    a, b = (learner.start(FAMILY.sample(seeded(i)).support) for i in (0, 1))
    assert not torch.allclose(a["left.0"], b["left.0"], rtol=1e-3)

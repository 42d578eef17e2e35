import pytest
import torch
from torch.distributions import Normal, kl_divergence

from l2o.learners import ConditionalNeuralProcess
from l2o.learners.neural_process.paths import divergence, noise, seeds
from l2o.tasks.episodes import Examples
from l2o.types import seeded
from tests.l2o.learners.neural_process.processes import FAMILY, episodes, make, normal_of, one


@pytest.mark.parametrize("name", ["np", "anp"])
def test_the_training_loss_of_a_latent_is_the_evidence_bound(name: str) -> None:
    """By torch's own distributions, with the same normal numbers."""
    learner, (support, query) = make(name), one(episodes())
    fast, latent = learner.start(support), learner.latent  # type: ignore[attr-defined]
    both = Examples(*(torch.cat(parts) for parts in zip(support, query, strict=True)))
    q, p = (normal_of(latent.prior(latent.start(*examples))) for examples in (both, support))
    z = q.mean + q.stddev * noise(seeds(query, 0), (4, 8), query.y)
    total = torch.zeros((), dtype=torch.float64)
    for draw in z:
        read = torch.cat([query.x, learner.path.at(fast, query.x), draw.expand(4, 8)], dim=-1)  # type: ignore[attr-defined]
        mean, raw = learner.decoder(read).chunk(2, dim=-1)  # type: ignore[attr-defined]
        total = total + Normal(mean, learner.deviation(raw)).log_prob(query.y).sum() / 4
    expected = (kl_divergence(q, p).sum() - total) / 4
    torch.testing.assert_close(learner.train().query_loss(fast, query), expected)
    assert not torch.allclose(learner.eval().query_loss(fast, query), expected)


def test_divergence_is_zero_where_nothing_was_learned() -> None:
    latent = torch.randn(2, 6, generator=seeded(0))
    assert float(divergence(latent, latent)) == pytest.approx(0, abs=1e-6)


def test_draws_of_a_latent_are_normal_and_differ_by_episode() -> None:
    given = FAMILY.sample_many(seeded(2), 200)
    keys = seeds(given.query, 1)
    assert len(set(keys.tolist())) == 200
    drawn = noise(keys, (10, 20), given.query.y)
    assert drawn.shape == (200, 10, 20)
    assert abs(float(drawn.mean())) < 4 / 200 and float(drawn.var()) == pytest.approx(1, abs=0.03)
    apart = noise(keys[3], (10, 20), given.query.y)
    assert torch.equal(apart, drawn[3])
    for i, j in ((0, 1), (5, 6)):
        assert abs(float((drawn[i] * drawn[j]).mean())) < 4 / 200**0.5


def test_deviations_have_their_floor() -> None:
    learner = ConditionalNeuralProcess(min_scale=0.1)
    raw = torch.tensor([-100.0, 0.0, 2.0])
    torch.testing.assert_close(learner.deviation(raw), 0.1 + 0.9 * torch.log1p(raw.exp()))
    learner.fixed_scale = 0.3
    assert learner.deviation(raw).tolist() == pytest.approx([0.3] * 3)


def test_a_conditional_process_decodes_the_mean_of_its_encodings() -> None:
    learner, (support, _) = make("cnp"), one(episodes())
    encoded = learner.path.encoder(torch.cat([*support], dim=-1))  # type: ignore[attr-defined]
    torch.testing.assert_close(learner.start(support)["representation"], encoded.mean(0))

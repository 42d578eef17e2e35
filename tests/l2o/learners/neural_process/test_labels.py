import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from l2o.learners import Adaptation, meta_grad
from l2o.learners.neural_process.paths import noise, seeds
from l2o.tasks.episodes import Episode, Examples
from tests.l2o.learners.meta_training import meta_train
from tests.l2o.learners.neural_process.processes import PROCESSES, classes, every_process, make, normal_of, one


@every_process
@pytest.mark.parametrize("training", [True, False])
def test_so_do_stacked_episodes_of_classes(name: str, training: bool) -> None:
    adaptation = Adaptation(make(name, outputs=3, likelihood="categorical")).train(training)
    stacked = meta_grad(adaptation, classes())
    for batching in ("loop", "vmap"):
        other = meta_grad(adaptation, classes(), batching=batching)
        torch.testing.assert_close(stacked.losses, other.losses)
        torch.testing.assert_close(stacked.scores, other.scores)
        torch.testing.assert_close(stacked.grads, other.grads)
    assert stacked.losses.std() > 1e-9 and max(float(grad.abs().max()) for grad in stacked.grads.values()) > 1e-6


@every_process
@pytest.mark.parametrize("training", [True, False])
def test_names_of_classes_mean_nothing(name: str, training: bool) -> None:
    learner = make(name, outputs=3, likelihood="categorical").train(training)
    given, names = one(classes()), torch.tensor([2, 0, 1])
    renamed = Episode(*(Examples(part.x, names[part.y]) for part in given))
    found = [learner.judged(learner.start(e.support), e.query, 0) for e in (given, renamed)]
    torch.testing.assert_close(found[0], found[1])
    said = [learner.predict(learner.start(e.support), given.query.x) for e in (given, renamed)]
    torch.testing.assert_close(said[0], said[1][:, names])


@every_process
def test_it_learns_to_tell_classes_apart_that_it_was_shown(name: str) -> None:
    torch.manual_seed(1)
    adaptation = Adaptation(PROCESSES[name](outputs=3, likelihood="categorical"))
    found = meta_train(adaptation, lambda i: classes(32, torch.float32, seed=i), 80, 1e-2)
    losses = [float(step.losses.mean()) for step in found]
    assert losses[0] > 1.0 and sum(losses[-10:]) / 10 < 0.55, losses[::10]


@pytest.mark.parametrize("name", ["np", "anp"])
def test_of_labels_too_by_one_latent_for_all_classes(name: str) -> None:
    learner, (support, query) = make(name, outputs=3, likelihood="categorical"), one(classes())
    fast, latent = learner.start(support), learner.latent  # type: ignore[attr-defined]

    def seen(*parts: Examples) -> Tensor:
        """Every point as every class sees it, encoded."""
        x, y = (torch.cat(each) for each in zip(*parts, strict=True))
        rows = [torch.cat([x, (y == c).double().unsqueeze(-1)], dim=-1) for c in range(3)]
        return torch.cat([latent.encoder(row) for row in rows])

    q, p = (normal_of(latent.of(seen(*parts))) for parts in ((support, query), (support,)))
    total = torch.zeros((), dtype=torch.float64)
    for draw in q.mean + q.stddev * noise(seeds(query, 0), (4, 8), query.x):
        read = [query.x.expand(3, 6, 1), learner.path.at(fast, query.x.expand(3, 6, 1)), draw.expand(3, 6, 8)]  # type: ignore[attr-defined]
        logits = learner.decoder(torch.cat(read, dim=-1)).squeeze(-1).T  # type: ignore[attr-defined]
        total = total + Categorical(logits=logits).log_prob(query.y).sum() / 4
    expected = (kl_divergence(q, p).sum() - total) / 6
    torch.testing.assert_close(learner.train().query_loss(fast, query), expected)


def test_an_autoregressive_process_is_told_no_labels_since_their_order_would_tell_the_next() -> None:
    (ours, other), given = (make(name, outputs=3, likelihood="categorical") for name in ("tnp-a", "tnp-d")), classes(20)
    other.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours.feed_forward(given), other.feed_forward(given))
    fast = ours.start(given.support)
    torch.testing.assert_close(ours.query_loss(fast, given.query), other.query_loss(fast, given.query))
    torch.testing.assert_close(ours.judged(fast, given.query, 0), other.judged(fast, given.query, 0))


@every_process
def test_any_number_of_classes_is_told_apart_with_the_same_weights(name: str) -> None:
    learner, given = make(name, outputs=3, likelihood="categorical"), one(classes())
    before = learner.predict(learner.start(given.support), given.query.x)
    learner.way = 5
    assert learner.predict(learner.start(given.support), given.query.x).shape == (6, 5)
    learner.way = 3
    torch.testing.assert_close(learner.predict(learner.start(given.support), given.query.x), before)
    with pytest.raises(ValueError, match="way is a number of classes, at least 1"):
        learner.way = 0

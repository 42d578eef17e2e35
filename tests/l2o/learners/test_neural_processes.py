import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Normal, kl_divergence

from l2o.learners import (
    Adaptation,
    AttentiveNeuralProcess,
    ConditionalNeuralProcess,
    ConvolutionalNeuralProcess,
    LatentNeuralProcess,
    TransformerNeuralProcess,
    adapt,
    meta_grad,
)
from l2o.learners.neural_process.attention import attend
from l2o.learners.neural_process.base import NeuralProcess
from l2o.learners.neural_process.paths import deviation, divergence, noise, seeds
from l2o.rules import SGD
from l2o.tasks.episodes import Episode, Examples
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.tasks.gaussian_process import GaussianProcess
from l2o.training.judge import judge
from l2o.types import seeded, tree_map

SMALL = {"width": 8, "depth": 2}
PROCESSES = {
    "cnp": lambda **given: ConditionalNeuralProcess(**SMALL, **given),
    "np": lambda **given: LatentNeuralProcess(**SMALL, num_samples=5, **given),
    "canp": lambda **given: AttentiveNeuralProcess(**SMALL, heads=2, latent=False, **given),
    "anp": lambda **given: AttentiveNeuralProcess(**SMALL, heads=2, num_samples=5, **given),
    "tnp-d": lambda **given: TransformerNeuralProcess(**SMALL, heads=2, hidden=8, **given),
    "tnp-a": lambda **given: TransformerNeuralProcess(**SMALL, heads=2, hidden=8, autoregressive=True, **given),
    "convcnp": lambda **given: ConvolutionalNeuralProcess(channels=4, depth=2, kernel=3, points_per_unit=4, **given),
}
FAMILY = GaussianProcess(context=(5, 5), target=(4, 4))
every_process = pytest.mark.parametrize("name", PROCESSES)


def make(name: str, **given: object) -> NeuralProcess:
    torch.manual_seed(0)
    made = PROCESSES[name](**given).double()
    for p in made.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return made


def episodes(num: int = 3, family: GaussianProcess = FAMILY) -> Episode:
    return tree_map(lambda x: x.double(), family.sample_many(seeded(1), num))


def one(of: Episode, i: int = 0) -> Episode:
    return tree_map(lambda x: x[i], of)


def classes(num: int = 3, dtype: torch.dtype = torch.float64, seed: int = 1) -> Episode:
    """Three classes of points on a line, two told of each and two asked."""
    drawn = GaussianClasses(1, 0.1, way=3, shot=2, query=2).sample_many(seeded(seed), num)
    return Episode(*(Examples(part.x.to(dtype).clamp(-2.0, 2.0), part.y) for part in drawn))


@every_process
@pytest.mark.parametrize("training", [True, False])
def test_stacked_episodes_give_what_each_gives_alone(name: str, training: bool) -> None:
    adaptation, given = Adaptation(make(name)).train(training), episodes()
    stacked = meta_grad(adaptation, given)
    for batching in ("loop", "vmap"):
        other = meta_grad(adaptation, given, batching=batching)
        torch.testing.assert_close(stacked.losses, other.losses)
        torch.testing.assert_close(stacked.scores, other.scores)
        torch.testing.assert_close(stacked.grads, other.grads)
    assert max(float(grad.abs().max()) for grad in stacked.grads.values()) > 1e-6


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
    optimizer, losses = torch.optim.Adam(adaptation.parameters(), 1e-2), []
    for i in range(80):
        found = meta_grad(adaptation, classes(32, torch.float32, seed=i))
        for key, p in adaptation.named_parameters():
            p.grad = found.grads[key]
        optimizer.step()
        losses.append(float(found.losses.mean()))
    assert losses[0] > 1.0 and sum(losses[-10:]) / 10 < 0.55, losses[::10]  # told labels alone: .60


@every_process
def test_a_judgement_of_stacked_episodes_is_that_of_each(name: str) -> None:
    adaptation = Adaptation(PROCESSES[name]())
    found = [judge(adaptation, FAMILY, 6, (0,), batching=batching) for batching in ("auto", "loop")]
    torch.testing.assert_close(found[0].losses, found[1].losses)
    torch.testing.assert_close(found[0].scores, found[1].scores)
    assert found[0].losses.shape == (6, 1)


@every_process
def test_an_episode_that_is_not_finite_is_left_out_of_a_stack(name: str) -> None:
    adaptation, given = Adaptation(make(name)), episodes()
    given.support.y[1, 0, 0] = torch.nan
    found, loop = (meta_grad(adaptation, given, batching=b) for b in ("auto", "loop"))
    assert found.finite.tolist() == [True, False, True]
    torch.testing.assert_close(found.grads, loop.grads)


@every_process
def test_the_order_of_the_context_does_not_matter(name: str) -> None:
    learner, (support, query) = make(name), one(episodes())
    turned = Examples(*(x[torch.tensor([3, 1, 4, 0, 2])] for x in support))
    before, after = (learner.predict(learner.start(s), query.x) for s in (support, turned))
    torch.testing.assert_close(before, after)


@every_process
def test_each_target_is_predicted_by_itself(name: str) -> None:
    learner, (support, query) = make(name), one(episodes())
    fast = learner.start(support)
    alone = torch.cat([learner.predict(fast, x.unsqueeze(0)) for x in query.x])
    torch.testing.assert_close(learner.predict(fast, query.x), alone)


@every_process
@pytest.mark.parametrize("likelihood", ["gaussian", "categorical"])
def test_the_loss_is_the_distributions_log_likelihood(name: str, likelihood: str) -> None:
    learner, (support, query) = make(name, outputs=3, likelihood=likelihood).eval(), one(episodes())
    if likelihood == "gaussian":
        support, query = (Examples(x, torch.cat([y, -y, y + 1], dim=-1)) for x, y in (support, query))
    else:
        support, query = (Examples(x, torch.arange(len(x)) % 3) for x, _ in (support, query))
    fast = learner.start(support)
    said = learner.predictive(fast, query.x)
    assert isinstance(said, Distribution) and said.batch_shape == (4,)
    expected = -said.log_prob(query.y).mean()
    prediction = learner.predict(fast, query.x)
    torch.testing.assert_close(-learner.log_prob(prediction, query.y).mean(), expected)
    if name != "tnp-a":
        torch.testing.assert_close(learner.query_loss(fast, query), expected)
        loss, score = learner.judged(fast, query, 0)
        torch.testing.assert_close(loss, expected)
        right = (prediction.argmax(-1) == query.y).double().mean() if likelihood == "categorical" else expected
        torch.testing.assert_close(score, right)


@every_process
def test_steps_on_what_a_context_says_lower_its_loss(name: str) -> None:
    learner, (support, query) = make(name).eval(), one(episodes())
    start = learner.start(support)
    fast = adapt(learner, SGD(0.01).double(), support, 5)
    assert learner.inner_loss(fast, support) < learner.inner_loss(start, support)
    assert not torch.allclose(learner.predict(fast, query.x), learner.predict(start, query.x))


@every_process
def test_an_empty_context_is_one_too(name: str) -> None:
    given = episodes(2, GaussianProcess(context=(0, 0), target=(4, 4)))
    found = meta_grad(Adaptation(make(name)), given)
    assert found.finite.all() and found.losses.isfinite().all()
    each = meta_grad(Adaptation(make(name)), given, batching="vmap")
    torch.testing.assert_close(found.grads, each.grads)


@every_process
def test_it_learns_that_a_smooth_function_goes_on_where_it_was(name: str) -> None:
    """Values of deviation 1 at first, of which 5 are told: without them nobody does better than 1.42 nats."""
    torch.manual_seed(0)
    family = GaussianProcess(lengthscale=(9.0, 9.0), scale=(1.0, 1.0), context=(5, 5), target=(4, 4))
    adaptation = Adaptation(PROCESSES[name]())
    optimizer, generator, losses = torch.optim.Adam(adaptation.parameters(), 1e-2), seeded(0), []
    for _ in range(60):
        found = meta_grad(adaptation, family.sample_many(generator, 32))
        for key, p in adaptation.named_parameters():
            p.grad = found.grads[key]
        optimizer.step()
        losses.append(float(found.losses.mean()))
    assert sum(losses[-10:]) / 10 < 1.0


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


@pytest.mark.parametrize("name", ["np", "anp"])
def test_the_training_loss_of_a_latent_is_the_evidence_bound(name: str) -> None:
    """By torch's own distributions, with the same normal numbers."""
    learner, (support, query) = make(name), one(episodes())
    fast, latent = learner.start(support), learner.latent  # type: ignore[attr-defined]
    both = Examples(*(torch.cat(parts) for parts in zip(support, query, strict=True)))
    q, p = (_normal(latent.prior(latent.start(*examples))) for examples in (both, support))
    z = q.mean + q.stddev * noise(seeds(query, 0), (4, 8), query.y)
    total = torch.zeros((), dtype=torch.float64)
    for draw in z:
        read = torch.cat([query.x, learner.path.at(fast, query.x), draw.expand(4, 8)], dim=-1)  # type: ignore[attr-defined]
        mean, raw = learner.decoder(read).chunk(2, dim=-1)  # type: ignore[attr-defined]
        total = total + Normal(mean, learner.deviation(raw)).log_prob(query.y).sum() / 4
    expected = (kl_divergence(q, p).sum() - total) / 4
    torch.testing.assert_close(learner.train().query_loss(fast, query), expected)
    assert not torch.allclose(learner.eval().query_loss(fast, query), expected)


@pytest.mark.parametrize("name", ["np", "anp"])
def test_of_labels_too_by_one_latent_for_all_classes(name: str) -> None:
    learner, (support, query) = make(name, outputs=3, likelihood="categorical"), one(classes())
    fast, latent = learner.start(support), learner.latent  # type: ignore[attr-defined]

    def seen(*parts: Examples) -> Tensor:
        """Every point as every class sees it, encoded."""
        x, y = (torch.cat(each) for each in zip(*parts, strict=True))
        rows = [torch.cat([x, (y == c).double().unsqueeze(-1)], dim=-1) for c in range(3)]
        return torch.cat([latent.encoder(row) for row in rows])

    q, p = (_normal(latent.of(seen(*parts))) for parts in ((support, query), (support,)))
    total = torch.zeros((), dtype=torch.float64)
    for draw in q.mean + q.stddev * noise(seeds(query, 0), (4, 8), query.x):
        read = [query.x.expand(3, 6, 1), learner.path.at(fast, query.x.expand(3, 6, 1)), draw.expand(3, 6, 8)]  # type: ignore[attr-defined]
        logits = learner.decoder(torch.cat(read, dim=-1)).squeeze(-1).T  # type: ignore[attr-defined]
        total = total + Categorical(logits=logits).log_prob(query.y).sum() / 4
    expected = (kl_divergence(q, p).sum() - total) / 6
    torch.testing.assert_close(learner.train().query_loss(fast, query), expected)


def test_an_autoregressive_process_is_not_scored_by_what_it_was_told() -> None:
    learner, given = make("tnp-a", outputs=3, likelihood="categorical"), classes(20)
    score = learner.feed_forward(given).score
    right = (learner.predict(learner.start(given.support), given.query.x).argmax(-1) == given.query.y).double()
    torch.testing.assert_close(score, right.mean(-1))
    told = learner.in_turn(learner.start(given.support), given.query).argmax(-1)  # type: ignore[attr-defined]
    assert not torch.equal(score, (told == given.query.y).double().mean(-1))


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


def _normal(latent: Tensor) -> Normal:
    mean, raw = latent.unbind(-2)
    return Normal(mean, deviation(raw))


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


def test_convolutions_move_with_their_inputs_and_tell_no_point_from_a_zero() -> None:
    learner = make("convcnp", domain=(-4.0, 4.0))
    support, query = one(episodes())
    here = learner.predict(learner.start(support), query.x)
    moved = learner.predict(learner.start(Examples(support.x + 1.0, support.y)), query.x + 1.0)  # 4 points of the grid
    torch.testing.assert_close(here, moved)
    zero = Examples(support.x[:1], torch.zeros_like(support.y[:1]))
    nothing = Examples(support.x[:0], support.y[:0])
    fields = [learner.start(s)["field"] for s in (zero, nothing)]
    assert not torch.allclose(*fields)
    with pytest.raises(ValueError, match=r"inputs must be on the grid, from -2\.5 to 2\.5"):
        make("convcnp").predict({}, torch.full((1, 1), 3.0).double())


def test_smoothing_between_grid_points_is_finite_however_narrow() -> None:
    learner, (support, query) = make("convcnp"), one(episodes())
    learner.log_widths.data.fill_(-9.0)  # type: ignore[attr-defined]
    loss = learner.query_loss(learner.start(support), query)
    loss.backward()
    assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in learner.parameters())


def test_an_encoder_of_inputs_is_trained_along() -> None:
    from l2o.learners import MLP

    learner = ConditionalNeuralProcess(inputs=5, **SMALL, encoder=MLP([1, 5]))
    assert not learner.stacks
    found = meta_grad(Adaptation(learner), FAMILY.sample_many(seeded(0), 2))
    assert found.grads["learner.encoder.head.weight"].any()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"likelihood": "poisson"}, "likelihood must be gaussian or categorical"),
        ({"inputs": 0}, "inputs and outputs must be positive"),
        ({"min_scale": 1.0}, "min_scale must be at least 0"),
        ({"width": 10, "heads": 4}, "width must be a multiple of heads"),
        ({"num_samples": 0}, "there must be a draw"),
    ],
)
def test_processes_that_make_no_sense_are_refused(given: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        AttentiveNeuralProcess(**given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="depth must be at least 1"):
        TransformerNeuralProcess(depth=0)


def test_values_and_inputs_of_another_size_are_told() -> None:
    learner, (support, query) = make("cnp"), one(episodes())
    with pytest.raises(ValueError, match="inputs must have 1 numbers"):
        learner.start(Examples(torch.zeros(5, 2).double(), support.y))
    with pytest.raises(ValueError, match="a value must have 1 numbers"):
        learner.query_loss(learner.start(support), Examples(query.x, query.y.expand(4, 2)))

import pytest
import torch

from l2o.estimators import Episodic
from l2o.learners import Adaptation, InContextTransformer, meta_grad
from l2o.learners.base import accuracy_of
from l2o.tasks import Curriculum, LinearFunctions, Ramp
from l2o.tasks.episodes import Episode, Examples
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.types import seeded, tree_map

FAMILY = LinearFunctions(dim=3, shot=4, query=5)
ATTENTIONS = pytest.mark.parametrize("attention", ["softmax", "linear"])


def fresh(attention: str = "softmax", **more) -> InContextTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return InContextTransformer(3, width=8, heads=2, depth=3, attention=attention, **more).double()


def double(episode: Episode) -> Episode:
    return tree_map(lambda x: x.double() if x.is_floating_point() else x, episode)


@ATTENTIONS
def test_each_query_in_turn_is_predicted_as_behind_a_longer_prompt(attention: str) -> None:
    learner, (support, query) = fresh(attention), double(FAMILY.sample(seeded(0)))
    told = learner.told(learner.start(support), query)
    for i in range(5):
        longer = Examples(torch.cat([support.x, query.x[:i]]), torch.cat([support.y, query.y[:i]]))
        alone = learner.predict(learner.start(longer), query.x[i : i + 1])
        torch.testing.assert_close(told[i : i + 1], alone)


@ATTENTIONS
def test_one_pass_is_the_prompt_and_then_the_queries_in_turn(attention: str) -> None:
    learner, episode = fresh(attention), double(FAMILY.sample(seeded(1)))
    at_once = learner.feed_forward(episode).loss
    torch.testing.assert_close(at_once, learner.query_loss(learner.start(episode.support), episode.query))
    torch.testing.assert_close(at_once, learner.judged(learner.start(episode.support), episode.query, 0).loss)
    stacked = double(FAMILY.sample_many(seeded(2), 3))
    each = [learner.feed_forward(tree_map(lambda x, i=i: x[i], stacked)).loss for i in range(3)]
    torch.testing.assert_close(learner.feed_forward(stacked).loss, torch.stack(each))
    stacks, mapped = (meta_grad(Adaptation(learner), stacked, batching=how) for how in ("auto", "vmap"))
    torch.testing.assert_close(stacks.grads, mapped.grads)


def test_in_evaluation_a_query_is_not_told_the_others() -> None:
    learner, episode = fresh(), double(FAMILY.sample(seeded(2)))
    prediction = learner.predict(learner.start(episode.support), episode.query.x)
    expected = (prediction - episode.query.y).square().mean()
    assert not torch.isclose(learner.feed_forward(episode).loss, expected)
    torch.testing.assert_close(learner.eval().feed_forward(episode).loss, expected)
    torch.testing.assert_close(fresh(in_turn=False).feed_forward(episode).loss, expected)


@ATTENTIONS
def test_an_empty_prompt_is_one_that_says_nothing(attention: str) -> None:
    learner = fresh(attention)
    support, query = double(LinearFunctions(dim=3, shot=0, query=4).sample(seeded(3)))
    fast = learner.start(support)
    assert all(value.shape == (0, 16) for value in fast.values())
    assert learner.predict(fast, query.x).shape == (4, 1)
    assert learner.feed_forward(Episode(support, query)).loss.isfinite()


def test_a_prompt_may_be_longer_than_any_in_training() -> None:
    support, query = double(LinearFunctions(dim=3, shot=300, query=2).sample(seeded(4)))
    learner = fresh()
    assert learner.predict(learner.start(support), query.x).isfinite().all()


def test_the_last_value_of_a_sequence_is_read_by_nobody() -> None:
    learner, (support, query) = fresh(), double(FAMILY.sample(seeded(5)))
    before = learner.told(learner.start(support), query)
    query.y[-1] += 100.0
    assert torch.equal(learner.told(learner.start(support), query), before)
    query.y[0] += 100.0
    after = learner.told(learner.start(support), query)
    assert torch.equal(after[0], before[0]) and not torch.isclose(after[1:], before[1:]).any()


def test_labels_are_not_taken_in_turn_since_their_order_would_tell_them() -> None:
    family = GaussianClasses(dim=3, way=3, shot=1, query=2)
    learner, episodes = fresh(outputs=3), double(family.sample_many(seeded(0), 4))
    outcome = learner.feed_forward(episodes)
    assert outcome.loss.shape == outcome.score.shape == (4,)
    fast = learner.start(episodes.support)
    torch.testing.assert_close(learner.query_loss(fast, episodes.query), outcome.loss)
    for i in range(4):
        support, query = (tree_map(lambda x, i=i: x[i], part) for part in episodes)
        alone = [learner.predict(learner.start(support), x.unsqueeze(0)) for x in query.x]
        torch.testing.assert_close(torch.nn.functional.cross_entropy(torch.cat(alone), query.y), outcome.loss[i])
        torch.testing.assert_close(accuracy_of(torch.cat(alone), query.y), outcome.score[i])


def test_a_curriculum_is_followed_by_the_estimator() -> None:
    whole = LinearFunctions(dim=3, shot=1, query=4)
    family, adaptation = Curriculum(whole, Ramp(1, 3, 1, 1), Ramp(2, 4, 1, 1)), Adaptation(fresh().float())
    estimator, theta = Episodic(adaptation, family, 2), {n: p.detach() for n, p in adaptation.named_parameters()}
    state = estimator.init(theta, seeded(0))
    for step in range(3):
        expected = meta_grad(adaptation, family.at(step).sample_many(seeded(step), 2), theta).losses.mean()
        found, state = estimator.estimate(theta, state, seeded(step))
        torch.testing.assert_close(found.loss, expected)


def test_it_learns_to_regress_lines_from_a_prompt() -> None:
    family = LinearFunctions(dim=1, shot=1, query=6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adaptation = Adaptation(InContextTransformer(1, width=32, heads=2, depth=2))
    optimizer, generator = torch.optim.Adam(adaptation.parameters(), 3e-3), seeded(0)
    for _ in range(400):
        found = meta_grad(adaptation, family.sample_many(generator, 32))
        for name, p in adaptation.named_parameters():
            p.grad = found.grads[name]
        optimizer.step()
    test = LinearFunctions(dim=1, shot=5, query=1).sample_many(seeded(1), 1000)
    with torch.no_grad():
        error = adaptation.eval()(test).loss.mean()
    assert error < 0.2  # 1 without a prompt


def test_impossible_settings_and_inputs_are_refused() -> None:
    for settings, message in (
        ({"inputs": 0}, "inputs and depth must be at least 1"),
        ({"inputs": 2, "attention": "hard"}, "attention must be softmax or linear"),
        ({"inputs": 2, "width": 9, "heads": 2}, "width must be a multiple of heads"),
    ):
        with pytest.raises(ValueError, match=message):
            InContextTransformer(**settings)
    support, query = double(FAMILY.sample(seeded(0)))
    with pytest.raises(ValueError, match="inputs must have 3 numbers"):
        fresh().predict(fresh().start(support), query.x[:, :2])
    with pytest.raises(ValueError, match="targets must have the prediction's shape"):
        fresh().eval().query_loss(fresh().start(support), Examples(query.x, query.y[:, 0]))

import pytest
import torch
from torch.distributions import Distribution

from l2o.learners import (
    Adaptation,
    AttentiveNeuralProcess,
    ConditionalNeuralProcess,
    TransformerNeuralProcess,
    adapt,
    meta_grad,
)
from l2o.rules import SGD
from l2o.tasks.episodes import Examples
from l2o.tasks.gaussian_process import GaussianProcess
from l2o.training.judge import judge
from l2o.types import seeded
from tests.l2o.learners.meta_training import meta_train
from tests.l2o.learners.neural_process.processes import FAMILY, PROCESSES, SMALL, episodes, every_process, make, one


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
    generator = seeded(0)
    found = meta_train(adaptation, lambda _: family.sample_many(generator, 32), 60, 1e-2)
    losses = [float(step.losses.mean()) for step in found]
    assert sum(losses[-10:]) / 10 < 1.0


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

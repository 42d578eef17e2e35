import pytest
import torch

from l2o.distributed import LocalPool
from l2o.estimators import Episodic, MultiStepLoss, Reptile
from l2o.learners import MAML, MLP, Adaptation, PrototypicalNetwork, adapt, meta_grad
from l2o.rules import SGD
from l2o.tasks.episodes import Episode, EpisodeFamily, Examples
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.tasks.sinusoid import Sinusoid
from l2o.training.meta_trainer import MetaTrainer, theta_of
from l2o.types import seeded, tree_map

FAMILY = Sinusoid(shot=4, query=4)


@pytest.fixture
def adaptation() -> Adaptation:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Adaptation(MAML(MLP([1, 6, 1])), SGD(0.01), 2)
    assert made.rule is not None
    made.rule.requires_grad_(False)
    return made


def test_an_estimate_is_the_meta_gradient_of_fresh_episodes(adaptation: Adaptation) -> None:
    estimator, theta = Episodic(adaptation, FAMILY, 3), theta_of(adaptation)
    assert "rule.log_lr" not in theta
    state = estimator.init(theta, seeded(0))
    found, state = estimator.estimate(theta, state, seeded(5))
    expected = meta_grad(adaptation, FAMILY.sample_many(seeded(5), 3), theta)
    assert all(torch.equal(found.grads[name], expected.grads[name]) for name in theta)
    torch.testing.assert_close(found.loss, expected.losses.mean())
    assert int(state.num_estimates) == 1 and found.metrics["nonfinite"] == 0


def test_two_workers_have_episodes_of_their_own_and_are_averaged(adaptation: Adaptation) -> None:
    theta = theta_of(adaptation)
    two = LocalPool(Episodic(adaptation, FAMILY, 3), theta, 2, seed=10).estimate(theta)
    alone = [LocalPool(Episodic(adaptation, FAMILY, 3), theta, 1, seed=s).estimate(theta)[0] for s in (10, 11)]
    for a, b in zip(two, alone, strict=True):
        assert all(torch.equal(a.gradient.grads[name], b.gradient.grads[name]) for name in theta)
    heads = [one.gradient.grads["learner.network.head.weight"] for one in two]
    assert not torch.equal(*heads)


def test_weights_of_steps_move_to_the_last() -> None:
    weights = MultiStepLoss(anneal=10)
    torch.testing.assert_close(weights(0, 4), torch.full((4,), 0.25))
    torch.testing.assert_close(weights(5, 4), torch.tensor([0.125, 0.125, 0.125, 0.625]))
    for count in (10, 1000):
        assert weights(count, 4).tolist() == [0.0, 0.0, 0.0, 1.0]
    assert all(weights(count, 3).sum() == pytest.approx(1.0) for count in range(12))


def test_the_loss_of_many_steps_is_their_weighted_sum(adaptation: Adaptation) -> None:
    episodes = FAMILY.sample_many(seeded(0), 2)
    several = meta_grad(adaptation, episodes, weights=torch.tensor([0.3, 0.7]))
    at = [meta_grad(Adaptation(adaptation.learner, adaptation.rule, k), episodes) for k in (1, 2)]
    torch.testing.assert_close(several.losses, 0.3 * at[0].losses + 0.7 * at[1].losses)
    for name, grad in several.grads.items():
        torch.testing.assert_close(grad, 0.3 * at[0].grads[name] + 0.7 * at[1].grads[name])


@pytest.mark.parametrize("batching", ["loop", "vmap"])
def test_reptile_goes_from_the_adapted_weights_to_the_slow_ones(adaptation: Adaptation, batching: str) -> None:
    estimator, theta = Reptile(adaptation, FAMILY, 3, batching), theta_of(adaptation)
    found, _ = estimator.estimate(theta, estimator.init(theta, seeded(0)), seeded(5))
    episodes = FAMILY.sample_many(seeded(5), 3)
    ends = [
        adapt(adaptation.learner, adaptation.rule, tree_map(lambda x, i=i: x[i], episodes.support), 2) for i in range(3)
    ]
    for name, slow in adaptation.learner.start(episodes.support).items():
        expected = slow - torch.stack([fast[name] for fast in ends]).mean(0)
        torch.testing.assert_close(found.grads[f"learner.network.{name}"], expected.detach(), rtol=1e-4, atol=1e-6)


class Points(EpisodeFamily):
    """Episodes with one support point (1, y), y = 2, 4, ... by turns; queries that cannot be judged where y = 4."""

    def sample(self, generator: torch.Generator) -> Episode:
        return tree_map(lambda x: x[0], self.sample_many(generator, 1))

    def sample_many(self, generator: torch.Generator, num: int) -> Episode:
        y = 2.0 + 2.0 * torch.arange(num).view(num, 1, 1)
        bad = torch.where(y == 4.0, float("nan"), y)
        return Episode(Examples(torch.ones(num, 1, 1), y), Examples(torch.ones(num, 1, 1), bad))


def line() -> MAML:
    """Prediction w x with w = 5."""
    learner = MAML(torch.nn.Linear(1, 1, bias=False))
    torch.nn.init.constant_(learner.network.weight, 5.0)
    return learner


@pytest.mark.parametrize("batching", ["loop", "vmap", "chunk:2"])
def test_reptile_worked_out_by_hand(batching: str) -> None:
    """A step of .1 on (w - y)^2 goes .2 (w - y): of y = 2 and 6 the mean is .2 (3 - 1) / 2, and y = 4 is left out."""
    adaptation = Adaptation(line(), SGD(0.1), 1)
    estimator, theta = Reptile(adaptation, Points(), 3, batching), theta_of(adaptation)
    found, state = estimator.estimate(theta, estimator.init(theta, seeded(0)), seeded(0))
    torch.testing.assert_close(found.grads["learner.network.weight"], torch.tensor([[0.2]]))
    assert not found.grads["rule.log_lr"].any() and int(state.num_estimates) == 1
    assert found.metrics["nonfinite"] == pytest.approx(1 / 3)
    torch.testing.assert_close(found.loss, torch.tensor((2.4**2 + 0.8**2) / 2))


@pytest.mark.parametrize("batching", ["loop", "vmap"])
def test_maml_worked_out_by_hand_leaves_out_what_is_not_finite(batching: str) -> None:
    """After the step w' = w - .2 (w - y), d (w' - y)^2 / d w = 2 (.8) (.8) (w - y)."""
    adaptation = Adaptation(line(), SGD(0.1), 1)
    estimator, theta = Episodic(adaptation, Points(), 3, batching), theta_of(adaptation)
    found, _ = estimator.estimate(theta, estimator.init(theta, seeded(0)), seeded(0))
    torch.testing.assert_close(found.grads["learner.network.weight"], torch.tensor([[2 * 0.64 * (3 - 1) / 2]]))
    assert found.metrics["nonfinite"] == pytest.approx(1 / 3)
    torch.testing.assert_close(found.loss, torch.tensor((2.4**2 + 0.8**2) / 2))


def test_estimates_anneal_the_weights_of_steps(adaptation: Adaptation) -> None:
    weights = MultiStepLoss(anneal=2)
    estimator, theta = Episodic(adaptation, FAMILY, 2, multi_step=weights), theta_of(adaptation)
    state = estimator.init(theta, seeded(0))
    for count in range(3):
        found, state = estimator.estimate(theta, state, seeded(count))
        expected = meta_grad(adaptation, FAMILY.sample_many(seeded(count), 2), theta, weights=weights(count, 2))
        assert all(torch.equal(found.grads[name], expected.grads[name]) for name in theta)
    last = meta_grad(adaptation, FAMILY.sample_many(seeded(2), 2), theta)
    for name, grad in last.grads.items():
        torch.testing.assert_close(found.grads[name], grad)


def test_an_outer_step_of_reptile_with_rate_one_is_the_mean_of_adapted_weights(adaptation: Adaptation) -> None:
    theta = {name: p.clone() for name, p in theta_of(adaptation).items()}
    pool = LocalPool(Reptile(adaptation, FAMILY, 2), theta, 1, seed=3)
    MetaTrainer(adaptation, pool, torch.optim.SGD(adaptation.learner.parameters(), lr=1.0), max_grad_norm=None).step()
    pool = LocalPool(Reptile(adaptation, FAMILY, 2), theta, 1, seed=3)
    (found,) = pool.estimate(theta)
    for name, after in theta_of(adaptation).items():
        torch.testing.assert_close(after, theta[name] - found.gradient.grads[name])


def test_reptile_refuses_fast_variables_that_are_no_slow_weights() -> None:
    learner = Adaptation(PrototypicalNetwork(MLP([16, 4]), 5), SGD(0.1), 1)
    estimator = Reptile(learner, GaussianClasses(), 2)
    with pytest.raises(ValueError, match="start as its own slow weights"):
        estimator.estimate(theta_of(learner), estimator.init({}, seeded(0)), seeded(0))
    with pytest.raises(ValueError, match="at least 1"):
        Reptile(learner, GaussianClasses(), 0)


class Broken(Sinusoid):
    def sample_many(self, generator: torch.Generator, num: int) -> Episode:
        given = super().sample_many(generator, num)
        return Episode(given.support, Examples(given.query.x * float("nan"), given.query.y))


def test_without_a_usable_episode_weights_stay(adaptation: Adaptation) -> None:
    theta = {name: value.clone() for name, value in theta_of(adaptation).items()}
    pool = LocalPool(Episodic(adaptation, Broken(), 2), theta)
    optimizer = torch.optim.AdamW(adaptation.learner.parameters(), lr=0.1)
    metrics = MetaTrainer(adaptation, pool, optimizer).step()
    assert metrics["skipped"] == 1 and metrics["not_finite"] == 1
    assert all(torch.equal(value, theta[name]) for name, value in theta_of(adaptation).items())


def test_what_a_worker_draws_from_the_global_generator_is_its_own() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 5))
    dropping = Adaptation(MAML(network), SGD(0.1), 1)
    pools = [LocalPool(Episodic(dropping, GaussianClasses(), 2), {}, 2, seed=1) for _ in range(2)]
    for pool in pools:
        torch.rand(3)
        pool.estimate(theta_of(dropping))
    pools[1].load_state_dict(pools[0].state_dict())
    a, b = (pool.estimate(theta_of(dropping)) for pool in pools)
    assert [one.gradient.loss for one in a] == [one.gradient.loss for one in b]

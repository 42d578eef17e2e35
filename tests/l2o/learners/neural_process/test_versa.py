import math

import pytest
import torch
from torch.distributions import Normal

from l2o.learners import MLP, VERSA, Adaptation, PriorFittedNetwork
from l2o.tasks.episodes import Examples
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.tasks.tabular_prior import SyntheticTables
from l2o.types import seeded, tree_map
from tests.l2o.learners.meta_training import meta_train

FAMILY = GaussianClasses(dim=4, spread=0.3, way=3, shot=2, query=3)


def test_draws_of_weights_give_the_mean_probability() -> None:
    """With many draws it is what torch's own distributions give."""
    learner = VERSA(MLP([4, 5]), 3, hidden=6, num_samples=20000).eval()
    learner.log_variance.head.bias.data.zero_()
    support, query = FAMILY.sample(seeded(0))
    with torch.no_grad():
        fast = learner.start(support)
        weights = Normal(fast["means"], (0.5 * fast["log_variances"]).exp()).sample((20000,))
        z = learner.encoder(query.x)
        expected = (z @ weights[..., :-1].mT + weights[..., -1].unsqueeze(1)).softmax(-1).mean(0)
        torch.testing.assert_close(learner.predict(fast, query.x).exp(), expected, atol=0.015, rtol=0)


def test_one_network_reads_each_class_by_its_mean_embedding() -> None:
    learner = VERSA(MLP([4, 5]), None, hidden=6)
    support, _ = FAMILY.sample(seeded(0))
    z = learner.encoder(support.x)
    fast = learner.start(support)
    torch.testing.assert_close(fast["means"][1], learner.mean(z[support.y == 1].mean(0, keepdim=True))[0])
    two = Examples(support.x[support.y < 2], support.y[support.y < 2])
    torch.testing.assert_close(learner.start(two)["log_variances"], fast["log_variances"][:2])


def test_in_training_draws_differ_from_the_predictions() -> None:
    learner = VERSA(MLP([4, 5]), 3, hidden=6, num_samples=2)
    learner.log_variance.head.bias.data.zero_()
    support, query = FAMILY.sample(seeded(0))
    fast = learner.start(support)
    training, evaluation = (learner.train(mode).query_loss(fast, query) for mode in (True, False))
    assert abs(float((training - evaluation).detach())) > 1e-4
    loss, _ = learner.judged(fast, query, 0)
    torch.testing.assert_close(loss, evaluation)


def test_it_learns_gaussian_classes() -> None:
    torch.manual_seed(0)
    adaptation = Adaptation(VERSA(MLP([4, 16]), 3, hidden=16))
    generator = seeded(0)
    found = meta_train(adaptation, lambda _: FAMILY.sample_many(generator, 8), 60, 1e-2)
    scores = [float(step.scores.mean()) for step in found]
    assert sum(scores[-10:]) / 10 > 0.85


def test_a_draw_there_must_be() -> None:
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        VERSA(MLP([4, 5]), 3, num_samples=0)


def test_a_prior_fitted_networks_one_pass_is_the_two_and_a_mean_over_orders_is_one() -> None:
    torch.manual_seed(0)
    network = PriorFittedNetwork(6, 3, 8, 2, 2, 8, shifts=3).double()
    episodes = SyntheticTables(6, 3, (9, 9), 4).sample_many(seeded(0), 2)
    episodes = tree_map(lambda x: x.double() if x.is_floating_point() else x, episodes)
    once = network.feed_forward(episodes)
    twice = network.judged(network.start(episodes.support), episodes.query, 0)
    torch.testing.assert_close(once, twice)
    alone = network.predict(network.start(episodes.support), episodes.query.x)
    network.eval()
    fast = network.start(episodes.support)
    mean = network.predict(fast, episodes.query.x)
    assert len(fast) == 6 and network.feed_forward(episodes)[0].shape == (2,)
    torch.testing.assert_close(mean.exp().sum(-1), torch.full((2, 4), 3.0).double())
    parts = [alone.softmax(-1)]
    for i in (1, 2):  # columns moved by a third of them, classes by one
        x, y = episodes.support.x.roll(2 * i, -1), (episodes.support.y + i) % 3
        network.shifts = 1
        said = network.predict(network.start(Examples(x, y)), episodes.query.x.roll(2 * i, -1)).softmax(-1)
        parts.append(said[..., [(c + i) % 3 for c in range(3)]])
    torch.testing.assert_close(mean.exp(), sum(parts))
    assert math.isfinite(float(once[0].detach().sum()))
    with pytest.raises(ValueError, match="shifts must be at least 1"):
        PriorFittedNetwork(6, 3, shifts=0)

"""Evolution over whole lives: what a pair shares, what an estimate is, and that training it is resumable."""

from dataclasses import replace

import pytest
import torch

from l2o.agents import suites
from l2o.agents.environments import CartPole
from l2o.agents.kind import Kind
from l2o.agents.lifetime_es import LifetimeES
from l2o.agents.losses import Hyperparameters
from l2o.agents.meta_train import LivesConfig, train
from l2o.agents.ppo import PPO
from l2o.load import load
from l2o.rules import SGD, Adam
from l2o.training.checkpoint import fingerprint, load_tree
from l2o.types import seeded

KIND = Kind(CartPole(0.4, 20), (4,), algorithm=PPO(num_envs=2, num_steps=8, num_epochs=2), num_iterations=3)


def test_scores_are_shares_of_the_return_and_follow_from_the_generator():
    scores = KIND.scores(Adam(0.1), seeded(0), 5)
    assert scores.shape == (5,) and bool(((scores > 0) & (scores <= 1)).all())
    assert torch.equal(scores, KIND.scores(Adam(0.1), seeded(0), 5))


def test_whole_episodes_tell_what_short_lives_cannot_show():
    # policies that never learn are as good at every look; what 24 steps show of episodes of 100 is too good
    kind = replace(KIND, environment=CartPole(0.0, 100), hyperparameters=Hyperparameters(learning_rate=0.0))
    lifetimes = kind.lifetimes(Adam(0.1))
    true = lifetimes.whole_returns(lifetimes.start(64, 3, seeded(0)), 64, seeded(1)).mean() / 100
    whole = kind.scores(Adam(0.1), seeded(0), 64, episodes=16).mean()
    assert float(whole) == pytest.approx(float(true), rel=0.1)
    assert float(kind.scores(Adam(0.1), seeded(0), 64).mean()) > 1.5 * float(true)


def test_the_curve_is_looked_at_evenly_from_the_first_moment_to_the_last():
    assert KIND.looks() == [0, 1, 2, 3] and replace(KIND, num_iterations=20).looks() == [0, 5, 10, 15, 20]
    kind = replace(KIND, num_iterations=8)
    scores = kind.scores(Adam(0.1), seeded(0), 5, episodes=2)
    lifetimes, generator = kind.lifetimes(Adam(0.1)), seeded(0)
    lives, found = lifetimes.start(5, 8, generator), []
    for i in range(9):
        if i % 2 == 0:
            found.append(lifetimes.whole_returns(lives, 2, generator))
        if i < 8:
            lives, _ = lifetimes.advance(
                dict(lifetimes.rule.named_parameters()), lives, kind.hyperparameters, generator
            )
    area = (found[0] / 2 + found[1] + found[2] + found[3] + found[4] / 2) / 4
    torch.testing.assert_close(scores, kind.environment.share(area))


@pytest.mark.parametrize("rates", [1.0, 4.0])
def test_both_thetas_of_a_pair_live_the_same_lives(rates):
    # perturbations that vanish beside theta: both ends of each pair are equal, so there is nothing to tell
    es = LifetimeES(SGD(0.3), (KIND,), num_pairs=3, num_lives=2, std=1e-15, rates=rates)
    theta = {name: p.detach() + 1.0 for name, p in SGD(0.3).named_parameters()}
    gradient, _ = es.estimate(theta, {}, seeded(1))
    assert all(bool((g == 0).all()) for g in gradient.grads.values())


def test_an_estimate_is_the_rank_weighted_mean_of_perturbations():
    rule, pairs, lives, std = Adam(0.1), 4, 2, 0.5
    theta = {name: p.detach() for name, p in rule.named_parameters()}
    gradient, _ = LifetimeES(rule, (KIND,), pairs, lives, std).estimate(theta, {}, seeded(2))

    generator = seeded(2)
    torch.randint(1, (), generator=generator)  # of the kind
    epsilon = {name: std * torch.randn(pairs, *p.shape, generator=generator) for name, p in theta.items()}
    state, missed = generator.get_state(), []
    for sign in (1.0, -1.0):  # each half alone, on the same draws
        generator.set_state(state)
        half = {name: (p + sign * epsilon[name]).repeat_interleave(lives, dim=0) for name, p in theta.items()}
        missed.append(1 - KIND.scores(rule, generator, pairs * lives, theta=half).view(pairs, lives).mean(dim=1))
    order = torch.cat(missed)
    ranks = torch.stack([((order < x).sum() + 0.5 * ((order == x).sum() - 1)) / (2 * pairs - 1) - 0.5 for x in order])
    share = (ranks[:pairs] - ranks[pairs:]) / pairs
    for name, found in gradient.grads.items():
        expected = torch.tensordot(share, epsilon[name], dims=1) / (2 * std**2)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradient.loss, order.mean(), atol=1e-5, rtol=1e-4)


def test_rates_are_drawn_around_the_kinds_own():
    es = LifetimeES(Adam(0.1), (KIND,), num_pairs=50, num_lives=4, rates=4.0)
    ratio = es._hyperparameters(KIND, seeded(0)).learning_rate / KIND.hyperparameters.learning_rate
    assert torch.equal(ratio[:200], ratio[200:]) and len(set(ratio.tolist())) == 200
    assert 0.25 <= float(ratio.min()) < 0.27 and 3.7 < float(ratio.max()) <= 4.0
    assert 0.4 < float((ratio < 1.0).float().mean()) < 0.6
    with pytest.raises(ValueError, match="rates of 1 or more"):
        LifetimeES(Adam(0.1), (KIND,), rates=0.5)


def test_lives_that_nobody_can_score_are_refused():
    class Endless(CartPole):
        @property
        def return_range(self):
            return (0.0, float("inf"))

    with pytest.raises(ValueError, match="finite return_range"):
        Kind(Endless(0.4, 20))


def test_meta_training_on_lives_resumes_as_if_it_had_never_stopped(tmp_path, monkeypatch):
    kinds = {"pole": KIND}
    monkeypatch.setitem(suites.LIVES, "tiny", lambda: suites.LifeSuite(kinds, kinds, kinds))
    config = LivesConfig(rule="adam", lives="tiny", num_pairs=2, num_lives=1, steps=3, evaluate_every=3, held_out=2)
    train(config, tmp_path / "whole")
    train(replace(config, steps=2), tmp_path / "parts")
    train(config, tmp_path / "parts")
    last = [load_tree(tmp_path / name / "checkpoints" / "step_00000003.safetensors") for name in ("whole", "parts")]
    assert fingerprint(last[0]["trainer"]["module"]) == fingerprint(last[1]["trainer"]["module"])
    assert isinstance(load(tmp_path / "parts"), Adam)


def test_unknown_lives_are_named():
    with pytest.raises(ValueError, match="Did you mean 'short'"):
        suites.lives("shorts")

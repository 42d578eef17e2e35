import math

import pytest
import torch

from l2o.agents.environments import CartPole, Pendulum
from l2o.agents.hyper_bandit import HyperBandit
from l2o.agents.lifetime import Lifetimes
from l2o.agents.losses import Hyperparameters
from l2o.agents.policy import ActorCritic, Categorical, Gaussian
from l2o.agents.population import Members, Population
from l2o.agents.ppo import PPO
from l2o.agents.tuning import KNOBS, Knob, SelfTuning, Tuner, divergence
from l2o.rules import SGD, Adam
from l2o.types import seeded, tree_leaves, tree_map

POLE = CartPole(max_steps=50)


def agents(environment=POLE, rule=None) -> Lifetimes:
    return Lifetimes(environment, ActorCritic.of(environment, hidden=(5,)), rule or SGD(0.1), PPO(2, 8, 2))


def theta_of(lives: Lifetimes):
    return dict(lives.rule.named_parameters())


def values(num, **changed):
    found = {"learning_rate": 0.1, "discount": 0.95, "decay": 0.9, "entropy": 0.01, "value": 0.5} | changed
    return {name: torch.full((num,), value) for name, value in found.items()}


def test_knobs_stay_within_bounds_and_turn_by_shares():
    for scale in ("log", "complement", "odds"):
        knob, value = Knob(0.9, 0.99, scale), torch.tensor([0.95, 0.5, 1.0])
        assert knob.value(knob.raw(value)).tolist() == pytest.approx([0.95, 0.9, 0.99])
        low, high = knob.bounds()
        assert sorted(knob.raw(value).tolist())[::2] == pytest.approx([low, high], rel=1e-4)
    with pytest.raises(ValueError, match="0 < low < high"):
        Knob(0.5, 1.0, "complement").bounds()


def test_a_tuner_finds_the_smallest_loss_in_every_lane_whatever_its_scale():
    best = torch.tensor([0.003, 0.02, 0.2])
    tuner = Tuner({"learning_rate": Knob(1e-4, 0.5)}, rate=0.05)
    state = tuner.init({"learning_rate": torch.full((3,), 0.01)})
    scale = torch.tensor([1e-6, 1.0, 1e6])
    for _ in range(200):
        away = state.raw["learning_rate"] - best.log()
        state = tuner.step(state, {"learning_rate": scale * away})
    assert tuner.values(state.raw)["learning_rate"].tolist() == pytest.approx(best.tolist(), rel=0.1)


def test_no_gradient_moves_a_lane_further_than_the_clip_and_bad_ones_move_nothing():
    tuner = Tuner({"entropy": Knob(1e-4, 1.0)}, rate=0.1, clip=2.0, memory=0.99)
    state = tuner.init({"entropy": torch.full((3,), 0.1)})
    for _ in range(50):
        state = tuner.step(state, {"entropy": 1e-3 * torch.ones(3)})
    before = state.raw["entropy"]
    after = tuner.step(state, {"entropy": torch.tensor([1e9, float("nan"), -float("inf")])})
    assert (before - after.raw["entropy"]).tolist() == pytest.approx([0.2, 0.0, 0.0])
    assert int(after.skipped) == 2 and after.square["entropy"].isfinite().all()


@pytest.mark.parametrize("target", ["return", "bootstrap"])
@pytest.mark.parametrize("environment", [POLE, Pendulum(max_steps=6)], ids=["discrete", "continuous"])
def test_meta_gradients_are_differences_of_the_judge(target, environment):
    """With a step of the tuner so long that its sign is seen: it descends what differences say."""
    tuning = SelfTuning(agents(environment), Tuner(rate=1e-3), Hyperparameters(max_grad_norm=5.0), target)
    lives = tuning.lifetimes
    double = lambda tree: tree_map(lambda x: x.double() if x.is_floating_point() else x, tree)  # noqa: E731
    start = double(lives.start(2, 1, seeded(0)))
    theta = double({name: p.detach() for name, p in theta_of(lives).items()})
    state = double(tuning.tuner.init(values(2)))
    _, after, _ = tuning.advance(theta, start, state, seeded(1))

    def learned(raw, generator):
        first, running = lives.act(start, generator)
        learner, _ = lives.learn(theta, start.learner, first, tuning._hyper(raw), generator)
        return learner, running

    generator = seeded(1)
    now, running = learned(state.raw, generator)
    second, _ = lives.act(start._replace(running=running, learner=now), generator)
    later, _ = lives.learn(theta, now, second, tuning._hyper(state.raw), generator)
    for name in KNOBS:
        ends = []
        for shift in (1e-4, -1e-4):
            moved, _ = learned(state.raw | {name: state.raw[name] + shift}, seeded(1))
            ends.append(tuning._judge(moved.params, now.params, later.params, second))
        slope = (ends[0] - ends[1]).detach()
        moved = after.raw[name] - state.raw[name]
        assert torch.equal(moved.sign(), -slope.sign()), name
        usual = after.square[name].div(1.0 - tuning.tuner.memory).sqrt()
        torch.testing.assert_close(usual, (slope / 2e-4).abs(), rtol=1e-2, atol=1e-7)


@torch.no_grad()
def test_two_iterations_of_self_tuning_are_two_of_the_agents():
    tuning = SelfTuning(agents())
    lives = tuning.lifetimes
    start, state = lives.start(3, 2, seeded(0)), tuning.tuner.init(values(3))
    after, _, reports = tuning.advance(theta_of(lives), start, state, seeded(1))
    generator = seeded(1)
    same, report = lives.advance(theta_of(lives), start, tuning.hyperparameters(state), generator)
    same, later = lives.advance(theta_of(lives), same, tuning.hyperparameters(state), generator)
    for a, b in zip(tree_leaves((after, reports)), tree_leaves((same, (report, later))), strict=True):
        torch.testing.assert_close(a, b)


def test_divergence_is_that_of_torch():
    p, q = torch.randn(2, 5, 3, generator=seeded(0))
    torch.testing.assert_close(
        divergence(Categorical(p), Categorical(q)),
        torch.distributions.kl_divergence(
            torch.distributions.Categorical(logits=p), torch.distributions.Categorical(logits=q)
        ),
    )
    normal = [torch.distributions.Normal(x, (0.3 * x).exp()) for x in (p, q)]
    torch.testing.assert_close(
        divergence(Gaussian(p, 0.3 * p), Gaussian(q, 0.3 * q)),
        torch.distributions.kl_divergence(*normal).sum(-1),
    )


def test_the_worst_take_over_from_the_best_of_their_family_and_explore():
    population = Population(agents(), 8, {"learning_rate": Knob(1e-4, 1.0), "clip": Knob(0.05, 0.5)}, factor=2.0)
    rates = {"learning_rate": torch.logspace(-3, 0, 8), "clip": torch.full((8,), 0.2)}
    lives, members = population.start(2, 3, rates, seeded(0))
    for p in lives.learner.params.values():  # they begin alike within a family
        assert torch.equal(p[0], p[7]) and torch.equal(p[8], p[15])
    marked = tree_map(lambda x: x + torch.arange(16).view(-1, *[1] * (x.ndim - 1)).to(x.dtype), lives.learner)
    score = torch.tensor([3.0, 1, 5, 2, 8, 7, 6, 4, 1.0, 2, 3, 4, 5, 6, 7, 8])
    after, found = population.exchange(
        lives._replace(learner=marked), Members(members.raw, score, members.age), seeded(1)
    )
    source = [0, 5, 2, 4, 4, 5, 6, 7, 14, 15, 10, 11, 12, 13, 14, 15]
    assert torch.equal(found.score, score[source])
    for old, new in zip(tree_leaves(marked), tree_leaves(after.learner), strict=True):
        assert torch.equal(new, old[source])
    moved = torch.tensor([1, 3, 8, 9])
    change = (found.raw["learning_rate"] - members.raw["learning_rate"][source]).abs()
    top = math.log(1.0)  # bounds hold
    assert change[[0, 2, 4, 5, 6, 7, 10, 15]].eq(0).all() and found.raw["learning_rate"].max() <= top + 1e-6
    assert change[moved[:2]].tolist() == pytest.approx([math.log(2.0)] * 2, rel=1e-4)


def test_a_population_lives_as_long_as_asked():
    population = Population(agents(rule=Adam(1.0)), 4, every=2)
    rates = {"learning_rate": torch.logspace(-4, -1, 4)}
    report, members = population.run(theta_of(population.lifetimes), 3, 4, rates, seeded(0))
    assert report.episode_return.shape == (4, 12) and int(members.age) == 4
    assert population.hyperparameters(members).learning_rate.shape == (12,)


def test_a_bandit_finds_the_better_option_and_follows_when_it_changes():
    bandit, generator = HyperBandit(3, memory=0.9), seeded(0)
    pulls = bandit.init(200)
    mean = torch.tensor([0.0, 1.0, 0.5])
    chosen = []
    for i in range(160):
        if i == 80:
            mean = torch.tensor([2.0, 0.0, 0.5])
        option = bandit.choose(pulls, torch.rand(200, 3, generator=generator))
        pulls = bandit.updated(pulls, option, mean[option] + 0.3 * torch.randn(200, generator=generator))
        chosen.append(option)
    share = torch.stack(chosen)
    assert set(share[:3, 0].tolist()) == {0, 1, 2}  # each is tried
    assert (share[60:80] == 1).float().mean() > 0.6 and (share[140:] == 0).float().mean() > 0.6
    worse = bandit.updated(bandit.init(1), torch.tensor([0]), torch.tensor([float("nan")]))
    assert all(x.isfinite().all() for x in worse)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Tuner({}), "needs a knob"),
        (lambda: Tuner(clip=0.0), "clip > 0"),
        (lambda: Tuner().init({"entropy": torch.ones(2)}), "every knob needs a value"),
        (lambda: SelfTuning(agents(), Tuner({"clip": Knob(0.1, 0.3)})), "clip has none"),
        (lambda: Population(agents(), 3), "4 members"),
        (lambda: Population(agents(), 4, {"speed": Knob(1.0, 2.0)}), "must be hyperparameters"),
        (lambda: Population(agents(), 4).start(1, 1, {"learning_rate": torch.ones(3)}, seeded(0)), "one a member"),
        (lambda: HyperBandit(1), "2 options"),
    ],
)
def test_what_does_not_fit_is_told(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()

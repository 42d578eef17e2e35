import pytest
import torch
from torch.func import grad

from l2o.agents import lifetime
from l2o.agents.advantages import gae, normalised
from l2o.agents.environments import Bandit, CartPole, Pendulum, from_gymnasium
from l2o.agents.episodes import draw
from l2o.agents.lifetime import Lifetimes
from l2o.agents.losses import Hyperparameters, ppo_loss
from l2o.agents.policy import ActorCritic
from l2o.agents.ppo import PPO
from l2o.rules import SGD, Adam
from l2o.types import seeded, tree_leaves, tree_map

POLE = CartPole(max_steps=50)
SMALL = PPO(num_envs=2, num_steps=6, num_epochs=2)


def lifetimes(environment=POLE, rule=None, algorithm=SMALL, **options) -> Lifetimes:
    policy = ActorCritic.of(environment, hidden=(5,), **options)
    return Lifetimes(environment, policy, rule or Adam(lr=0.01), algorithm)


def theta_of(lives):
    return dict(lives.rule.named_parameters())


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True))


@pytest.mark.parametrize("environment", [POLE, Pendulum(max_steps=4)], ids=["discrete", "continuous"])
@pytest.mark.parametrize("shared", [False, True])
@torch.no_grad()
def test_an_iteration_is_ppo_as_one_would_write_it_with_torch(environment, shared):
    hyper = Hyperparameters(0.5, 0.9, 0.8, 0.1, 0.02, 0.7, 0.3, 0.4)
    agents = lifetimes(environment, shared=shared)
    start = agents.start(2, 1, seeded(0))
    after, _ = agents.advance(theta_of(agents), start, hyper, seeded(1))
    acted, _ = agents.act(start, seeded(1))
    for lane in range(2):
        steps = tree_map(lambda x, i=lane: x[:, i], acted)
        params = {name: p[lane].clone().requires_grad_() for name, p in start.learner.params.items()}
        optimizer = torch.optim.Adam(params.values(), lr=0.5 * 0.01)
        values = (agents.policy.value(params, x) for x in (steps.observation, steps.next_observation))
        found = gae(0.3 * steps.reward, *values, steps.terminated, steps.done, 0.9, 0.8)
        for _ in range(SMALL.num_epochs):
            with torch.enable_grad():
                distribution, value = agents.policy.forward(params, steps.observation)
                ratio = distribution.log_prob(steps.action) - steps.log_prob
                loss = ppo_loss(
                    ratio, normalised(found.advantage), distribution.entropy(), value, found.target, 0.1, 0.02, 0.7
                )
                optimizer.zero_grad()
                loss.total.backward()
            torch.nn.utils.clip_grad_norm_(params.values(), 0.4)
            optimizer.step()
        for name, p in params.items():
            torch.testing.assert_close(after.learner.params[name][lane], p, rtol=1e-4, atol=1e-5)


def test_agents_learn_to_balance_poles_and_those_without_a_learning_rate_do_not():
    hyper = Hyperparameters(torch.tensor([1.0] * 12 + [0.0] * 12), discount=0.98, value=0.005)
    policy = ActorCritic.of(CartPole(max_steps=200), hidden=(16,))
    curves = lifetime.run(
        CartPole(max_steps=200),
        policy,
        Adam(lr=0.01),
        hyper,
        24,
        10,
        generator=seeded(0),
        algorithm=PPO(8, 32),
        copies=2,
    )
    returns = curves.report.episode_return
    assert returns.shape == (10, 24)
    assert torch.equal(returns[0, :12], returns[0, 12:])  # the same worlds, policies and chances
    assert returns[-3:, :12].mean() > 2.0 * returns[-3:, 12:].mean()
    assert curves.area.shape == curves.final.shape == (24,)


@torch.no_grad()
def test_a_lane_does_not_know_of_the_others():
    agents = lifetimes(algorithm=PPO(2, 6, 2, 3))

    def train(rates):
        lives, generator = agents.start(4, 2, seeded(0), copies=2), seeded(1)
        for _ in range(2):
            lives, report = agents.advance(theta_of(agents), lives, Hyperparameters(torch.tensor(rates)), generator, 2)
        return lives, report

    one, report = train([1.0, 2.0, 1.0, 2.0])
    assert equal(tree_map(lambda x: x[:2], one), tree_map(lambda x: x[2:], one))
    assert torch.equal(report.reward[:2], report.reward[2:])
    other, _ = train([1.0, 2.0, 3.0, 4.0])
    assert equal(tree_map(lambda x: x[:2], one), tree_map(lambda x: x[:2], other))
    assert not equal(tree_map(lambda x: x[2:], one.learner), tree_map(lambda x: x[2:], other.learner))


@torch.no_grad()
def test_theta_may_differ_from_lane_to_lane():
    agents = lifetimes(rule=SGD(lr=0.1))
    start = agents.start(3, 1, seeded(0))
    theta = {name: value.expand(3, *value.shape).clone() for name, value in theta_of(agents).items()}
    shared, _ = agents.advance(theta_of(agents), start, Hyperparameters(), seeded(1))
    same, _ = agents.advance(theta, start, Hyperparameters(), seeded(1))
    theta["log_lr"][1] = -50.0
    other, _ = agents.advance(theta, start, Hyperparameters(), seeded(1))
    for name, p in start.learner.params.items():
        torch.testing.assert_close(shared.learner.params[name], same.learner.params[name])
        torch.testing.assert_close(other.learner.params[name][1], p[1])
        assert torch.equal(other.learner.params[name][2], same.learner.params[name][2])
    with pytest.raises(ValueError, match="theta must have"):
        agents.advance({name: value[:2] for name, value in theta.items()}, start, Hyperparameters(), seeded(1))


def test_meta_gradients_pass_through_updates_to_every_hyperparameter():
    agents = lifetimes(rule=SGD(lr=0.1))
    start = tree_map(lambda x: x.double() if x.is_floating_point() else x, agents.start(2, 1, seeded(0)))
    theta = {name: p.detach().double() for name, p in theta_of(agents).items()}
    values = torch.tensor([0.5, 0.9, 0.8, 0.2, 0.02, 0.7, 0.3, 5.0]).double()
    one_a_lane = torch.stack([values, values * 0.9])

    def judge(numbers):
        after, _ = agents.advance(theta, start, Hyperparameters(*numbers.T), seeded(1))
        return sum(
            (p.square() * torch.arange(1.0, p.numel() + 1).view(p.shape)).sum() for p in after.learner.params.values()
        )

    found = grad(judge)(one_a_lane)
    for lane in range(2):
        for i, name in enumerate(Hyperparameters._fields):
            shift = torch.zeros_like(one_a_lane)
            shift[lane, i] = 1e-5
            numeric = (judge(one_a_lane + shift) - judge(one_a_lane - shift)) / 2e-5
            torch.testing.assert_close(found[lane, i], numeric, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert (found[:, [0, 1, 2, 4, 5, 6]] != 0).all()


@torch.no_grad()
def test_the_reported_return_is_that_of_whole_episodes():
    agents = lifetimes(Bandit(3, max_steps=3), algorithm=PPO(num_envs=2, num_steps=6))
    _, report = agents.advance(theta_of(agents), agents.start(4, 1, seeded(0)), Hyperparameters(), seeded(1))
    torch.testing.assert_close(report.episode_return, 3.0 * report.reward)
    # where no episode can have ended yet, what one of full length would get at this pace
    agents = lifetimes(Pendulum(max_steps=100))
    _, report = agents.advance(theta_of(agents), agents.start(4, 1, seeded(0)), Hyperparameters(), seeded(1))
    torch.testing.assert_close(report.episode_return, 100.0 * report.reward)


@torch.no_grad()
def test_whole_episodes_are_those_of_each_lane_by_itself():
    agents = lifetimes()
    lives = agents.start(6, 1, seeded(0), copies=2)
    found = agents.whole_returns(lives, 3, seeded(1), copies=2)
    assert torch.equal(found[:3], found[3:]) and len(set(found[:3].tolist())) == 3
    noise = draw(POLE, seeded(1), POLE.max_steps + 1, 3, 3)
    for lane in range(3):
        world = tree_map(lambda x, i=lane: x[i], lives.world)
        params = {name: p[lane] for name, p in lives.learner.params.items()}
        returns = []
        for place in range(3):
            state, total = POLE.reset(world, noise.reset[0, lane, place]), 0.0
            for i in range(1, POLE.max_steps + 1):
                action, _ = agents.policy.act(params, POLE.observe(world, state), noise.action[i, lane, place])
                state, reward, over = POLE.step(world, state, action, noise.step[i, lane, place])
                total += float(reward)
                if over:
                    break
            returns.append(total)
        assert float(found[lane]) == pytest.approx(sum(returns) / 3)


def test_simulators_of_gymnasium_live_such_lives_too():
    pytest.importorskip("gymnasium")
    environment = from_gymnasium("CartPole-v1")
    policy = ActorCritic.of(environment, hidden=(4,))
    curves = lifetime.run(environment, policy, Adam(), None, 2, 2, generator=seeded(0), algorithm=SMALL)
    assert all(x.isfinite().all() for x in tree_leaves(curves))
    environment.close()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: PPO(num_envs=0), "num_envs must be at least 1"),
        (lambda: PPO(num_envs=2, num_steps=5, num_minibatches=3), "must divide"),
        (lambda: lifetimes().start(3, 1, seeded(0), copies=2), "multiple of copies"),
        (
            lambda: lifetimes().advance(
                {}, lifetimes(rule=SGD()).start(3, 1, seeded(0)), Hyperparameters(torch.ones(2)), seeded(0)
            ),
            "theta must have",
        ),
        (
            lambda: lifetime.run(
                POLE, lifetimes().policy, SGD(), Hyperparameters(torch.ones(2)), 3, 1, generator=seeded(0)
            ),
            "learning_rate must be a number or one for each of 3 lanes",
        ),
        (lambda: lifetime.run(POLE, lifetimes().policy, SGD(), None, 3, 0, generator=seeded(0)), "num_iterations"),
    ],
)
def test_what_does_not_fit_is_told(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()

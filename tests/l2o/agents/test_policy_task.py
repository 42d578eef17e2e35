import pytest
import torch
from torch.func import grad_and_value

from l2o.agents.environments import Bandit, CartPole, PointMass, from_gymnasium
from l2o.agents.losses import Hyperparameters
from l2o.agents.policy import ActorCritic
from l2o.agents.policy_task import PolicyFamily, PolicyTask
from l2o.agents.suites import control
from l2o.estimators import NRES, Problems, Truncation
from l2o.inner_loop import InnerLoop, Lanes
from l2o.rules import OPEN, Adam, LearnedMuon
from l2o.tasks.base import structure_of
from l2o.training.suites import load_suite
from l2o.types import seeded


def bandit(mean=(0.1, 0.3, 0.9), num_episodes=4000, **hyper) -> PolicyTask:
    environment = Bandit(len(mean), max_steps=1)
    policy = ActorCritic.of(environment, hidden=())
    return PolicyTask(environment, {"mean": torch.tensor(mean)}, policy, num_episodes, Hyperparameters(**hyper))


def test_the_value_is_the_share_of_the_return_that_is_missed():
    task = bandit()
    params, mean = task.init(seeded(0)), task.world["mean"]
    probs = task.policy.forward(params, torch.ones(1))[0].logits.softmax(-1)
    assert float(task.loss(params, task.sample_batch(seeded(1)))) == pytest.approx(1 - float(probs @ mean), abs=0.02)

    pole = PolicyFamily((CartPole(max_steps=30),), hidden=(4,), num_episodes=(5,)).sample(seeded(0))
    params, batch = pole.init(seeded(1)), pole.sample_batch(seeded(2))
    steps = pole.play(params, batch)
    lengths = [int(row.nonzero()[0]) + 1 for row in steps.done.T]
    assert float(pole.loss(params, batch)) == pytest.approx(1 - sum(lengths) / 5 / 30)
    assert min(lengths) < 30


def test_the_gradient_points_where_the_expected_return_grows():
    task = bandit(entropy=0.0)
    params = task.init(seeded(0)) | {"actor.0.bias": torch.tensor([0.5, -0.2, 0.0])}
    found = grad_and_value(task.loss)(params, task.sample_batch(seeded(1)))[0]["actor.0.bias"]

    def missed(bias):
        weight = params["actor.0.weight"].squeeze(-1)
        return 1 - (weight + bias).softmax(-1) @ task.world["mean"]

    exact = grad_and_value(missed)(params["actor.0.bias"])[0]
    assert torch.cosine_similarity(found, exact, dim=0) > 0.995


def test_adam_finds_the_best_arm_and_the_critic_its_worth():
    task = bandit(num_episodes=32)
    loop = InnerLoop(task, Adam(lr=0.1))
    with torch.no_grad():
        state = loop.reset(seeded(0))
        state, losses = loop.unroll(
            dict(loop.rule.named_parameters()), state, [task.sample_batch(seeded(i)) for i in range(60)]
        )
    assert losses[-10:].mean() < 0.2 < losses[:5].mean()
    assert float(task.policy.value(state.params, torch.ones(1))) == pytest.approx(0.9, abs=0.15)


@pytest.mark.parametrize("rule", [OPEN(), LearnedMuon(), Adam()], ids=["open", "learnedmuon", "adam"])
def test_evolution_strategies_get_a_meta_gradient(rule):
    family = PolicyFamily((CartPole(max_steps=8), PointMass(1, max_steps=5)), hidden=(3,), num_episodes=(2,))
    estimator = NRES(Problems(rule, family, num_tasks=2, truncation=Truncation(2, 4)), std=0.01)
    theta = {name: p.detach() for name, p in rule.named_parameters()}
    generator = seeded(0)
    state = estimator.init(theta, generator)
    for _ in range(2):
        found, state = estimator.estimate(theta, state, generator)
        assert found.loss.isfinite() and 0.0 <= found.loss <= 1.0
        assert all(g.isfinite().all() for g in found.grads.values())


def test_the_suite_can_be_named_and_its_parts_are_apart():
    suite = load_suite("l2o.agents.suites:control")
    assert suite.validation.keys() == control().validation.keys()
    seen = {structure_of(suite.family.fix(seeded(i)).sample(seeded(i))) for i in range(10)}
    assert len(seen) == 2
    held_out = [structure_of(task) for task in (*suite.validation.values(), *suite.test.values())]
    assert len({*held_out, *seen}) == len(held_out) + 2
    lanes = Lanes([suite.family.fix(seeded(0)).sample(seeded(i)) for i in range(3)], Adam())
    assert any((value[0] != value[1]).any() for value in lanes._tensors.values())


def test_tasks_without_a_range_are_refused():
    pytest.importorskip("gymnasium")
    environment = from_gymnasium("CartPole-v1")
    with pytest.raises(ValueError, match="finite return_range"):
        PolicyTask(environment, {}, ActorCritic.of(environment))
    with pytest.raises(ValueError, match="num_episodes"):
        bandit(num_episodes=0)

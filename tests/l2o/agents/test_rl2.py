import pytest
import torch

from l2o.agents.environments import Bandit, CartPole, Pendulum
from l2o.agents.episodes import draw
from l2o.agents.recurrent import RL2, RL2Gradient, evaluate, play
from l2o.distributed.pool import LocalPool
from l2o.load import load, save
from l2o.training.meta_trainer import MetaTrainer, theta_of
from l2o.types import seeded


def played(model, environment, num_steps, lanes=4, seed=0, **options):
    generator = seeded(seed)
    world = environment.sample(generator, lanes)
    noise = draw(environment, generator, num_steps + 1, lanes)
    return play(model, dict(model.named_parameters()), environment, world, noise, **options)


@pytest.mark.parametrize("environment", [CartPole(max_steps=5), Pendulum(max_steps=3)], ids=["discrete", "continuous"])
def test_a_trial_is_what_the_network_says_step_by_step(environment):
    model = RL2.of(environment, hidden_size=6)
    generator = seeded(0)
    world = environment.sample(generator, 3)
    noise = draw(environment, generator, 9, 3)
    trial = play(model, dict(model.named_parameters()), environment, world, noise)
    assert trial.log_prob.shape == (8, 3) and trial.done.any()
    seen_world = torch.cat([x.flatten(1) if x.ndim > 1 else x.unsqueeze(-1) for x in world.values()], -1)
    hidden, before = model.start(3)
    state, age = environment.reset(world, noise.reset[0]), torch.zeros(3, dtype=torch.int64)
    for i in range(8):
        outputs, value, hidden = model(hidden, environment.observe(world, state), before, seen_world)
        torch.testing.assert_close(trial.value[i], value)
        chosen = model.distribution(dict(model.named_parameters()), outputs)
        torch.testing.assert_close(trial.log_prob[i], chosen.log_prob(trial.action[i]))
        state, paid, terminated = environment.step(world, state, trial.action[i], noise.step[i + 1])
        age = age + 1
        done = terminated | (age >= environment.max_steps)
        assert torch.equal(done, trial.done[i]) and torch.equal(paid, trial.paid[i])
        state, age = environment.restart(world, state, done, noise.reset[i + 1]), torch.where(done, 0, age)
        before = before._replace(action=model.shown(trial.action[i]), reward=paid, done=done.float())


def test_memory_lasts_over_episodes_and_the_actor_does_not_see_the_world():
    environment = Bandit(3, max_steps=2)
    model = RL2.of(environment, hidden_size=8)
    generator = seeded(0)
    noise = draw(environment, generator, 7, 2)
    theta = dict(model.named_parameters())
    good, bad = ({"mean": torch.full((2, 3), value)} for value in (1.0, 0.0))
    one, other = (play(model, theta, environment, world, noise) for world in (good, bad))
    assert torch.equal(one.log_prob[0], other.log_prob[0])  # nothing was paid yet
    assert not torch.equal(one.entropy[4], other.entropy[4])  # two episodes on, it is remembered what the first paid
    assert not torch.equal(one.value[0], other.value[0])


def test_agents_learn_to_explore_and_then_to_exploit():
    bandit = Bandit(2, max_steps=6)
    model = RL2.of(bandit, hidden_size=16)

    def regret(world, action):
        return world["mean"].gather(-1, action.unsqueeze(-1)).squeeze(-1) - world["mean"].amax(dim=-1)

    estimator = RL2Gradient(model, bandit, 6, num_trials=128, anneal=150, teaching=regret)
    trainer = MetaTrainer(model, LocalPool(estimator, theta_of(model)), torch.optim.Adam(model.parameters(), 2e-2))
    for _ in range(150):
        trainer.step()
    paid = evaluate(model, bandit, 6, 4000, seeded(1))
    assert paid[0].mean() == pytest.approx(0.5, abs=0.03)
    assert paid[-1].mean() > 0.58 and paid.sum(0).mean() > 3.2  # 3 by chance


def test_what_is_learned_from_is_the_teaching_and_what_is_told_is_what_was_paid():
    bandit = Bandit(2, max_steps=3)
    trial = played(RL2.of(bandit, 4), bandit, 3, teaching=lambda world, action: world["mean"][:, 0] + 5.0)
    assert (trial.reward > 4.0).all() and (trial.paid <= 1.0).all()
    greedy = played(RL2.of(bandit, 4), bandit, 3, greedy=True)
    assert (greedy.log_prob.exp() >= 0.5).all()


def test_an_agent_is_saved_and_loaded(tmp_path):
    model = RL2.of(Pendulum(), hidden_size=4)
    save(model, tmp_path / "rl2.safetensors")
    again = load(tmp_path / "rl2.safetensors")
    assert isinstance(again, RL2)
    a, b = (played(m, Pendulum(max_steps=3), 4) for m in (model, again))
    assert torch.equal(a.action, b.action)
    with pytest.raises(ValueError, match="at least 1"):
        RL2(0, 2)
    with pytest.raises(ValueError, match="a pure environment, a step"):
        RL2Gradient(model, Pendulum(), 0)

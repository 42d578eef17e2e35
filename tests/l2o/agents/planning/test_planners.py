from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from l2o.agents.environments import CartPole, GridWorld, Pendulum, PointMass, spread_over
from l2o.agents.episodes import begin, draw, rollout
from l2o.agents.planning.gradient_planner import GradientPlanner
from l2o.agents.planning.mcts import MCTS
from l2o.agents.planning.model import EnvironmentModel, Model
from l2o.agents.planning.plan_family import PlanFamily, met_by
from l2o.agents.planning.planner import CEM, MPPI, Plan
from l2o.agents.planning.world_model import fit_world_model
from l2o.distributed.pool import LocalPool
from l2o.estimators import Backprop, Problems, Truncation
from l2o.estimators.meta_loss import MetaLoss
from l2o.rules import Adam, LSTMRule
from l2o.training.meta_trainer import MetaTrainer, theta_of
from l2o.types import seeded


@dataclass(frozen=True, eq=False)
class Integrator(Model):
    """x' = x + gain a, cost (x' - goal)^2: the best plan is known."""

    gain: Tensor
    goal: Tensor
    horizon: int = 3
    action_size: int = 2
    limit: float = 2.0

    def step(self, state, action):
        x = state["x"] + self.gain.unsqueeze(-1) * action
        return {"x": x}, (x - self.goal).square().sum(-1)

    def final(self, state):
        return (state["x"] - self.goal).square().sum(-1)


class Ends(PointMass):
    """A point mass whose episode is over where it comes far to the right."""

    def step(self, world, state, action, noise):
        after, reward, _ = super().step(world, state, action, noise)
        return after, reward, after["position"][..., 0] > 0.2


def problem(num=3):
    generator = seeded(0)
    return Integrator(1.0 + torch.rand(num, generator=generator), torch.rand(num, 2, generator=generator)), {
        "x": torch.zeros(num, 2)
    }


PLANNERS = {
    "cem": (CEM(12, 0.7, 0.2), 840),
    "mppi": (MPPI(10, 0.5, 0.2), 800),
    "adam": (GradientPlanner(Adam(lr=0.1)), 240),
}


@pytest.mark.parametrize(("planner", "budget"), PLANNERS.values(), ids=list(PLANNERS))
def test_a_planner_finds_the_best_plan_and_says_what_it_costs(planner, budget):
    model, state = problem()
    plan = planner.plan(model, state, budget, seeded(0))
    assert plan.actions.shape == (3, 3, 2) and plan.actions.abs().max() <= 2.0
    torch.testing.assert_close(plan.cost, model.cost(state, plan.actions))
    assert (plan.cost < 0.08 * model.cost(state, torch.zeros(3, 3, 2))).all()
    assert torch.equal(plan.actions, planner.plan(model, state, budget, seeded(0)).actions)


@pytest.mark.parametrize(("planner", "budget"), PLANNERS.values(), ids=list(PLANNERS))
def test_no_more_rollouts_are_made_than_the_budget_has(planner, budget):
    class Counting(Integrator):
        def cost(self, state, actions):
            made.append(3 if torch.is_grad_enabled() else 1)
            return super().cost(state, actions)

        def costs(self, state, candidates):
            made.append(candidates.shape[1])
            return Integrator.costs(Integrator(self.gain, self.goal), state, candidates)

    model, state = problem()
    for allowed in (budget, 31):
        made = []
        planner.plan(Counting(model.gain, model.goal), state, allowed, seeded(0))
        assert allowed - 10 < sum(made) <= allowed
    with pytest.raises(ValueError, match="budget must allow"):
        planner.plan(model, state, 3, seeded(0))
    with pytest.raises(ValueError, match="must have shape"):
        planner.plan(model, state, 60, seeded(0), torch.zeros(3, 2, 2))


@pytest.mark.parametrize(("planner", "budget"), PLANNERS.values(), ids=list(PLANNERS))
def test_a_search_that_begins_at_a_good_plan_ends_with_one_as_good(planner, budget):
    model, state = problem()
    first = torch.zeros(3, 3, 2)
    first[:, 0] = model.goal / model.gain.unsqueeze(-1)
    plan = planner.plan(model, state, 40, seeded(0), first)
    assert (plan.cost < 0.2 * model.cost(state, torch.zeros(3, 3, 2))).all()
    shifted = Plan(first, plan.cost).shifted()
    assert torch.equal(shifted[:, 0], first[:, 1]) and torch.equal(shifted[:, -1], first[:, -1])


def test_lanes_do_not_know_of_each_other():
    model, state = problem()
    adam = GradientPlanner(Adam(lr=0.1))
    alone = adam.plan(Integrator(model.gain[1:2], model.goal[1:2]), {"x": torch.zeros(1, 2)}, 31, seeded(0))
    torch.testing.assert_close(adam.plan(model, state, 31, seeded(0)).actions[1:2], alone.actions)


def test_an_environment_as_a_model_costs_what_its_episode_pays():
    environment = PointMass(num_obstacles=1, max_steps=9)
    world = environment.sample(seeded(0), 4)
    state = environment.reset(world, torch.rand(4, 2, generator=seeded(1)))
    model = EnvironmentModel(environment, world, horizon=5)
    actions = 2.0 * torch.rand(4, 5, 2, generator=seeded(2)) - 1.0
    expected = torch.zeros(4)
    later = state
    for i in range(5):
        later, reward, _ = environment.step(world, later, actions[:, i], torch.zeros(4, 0))
        expected -= reward
    torch.testing.assert_close(model.cost(state, actions), expected)
    torch.testing.assert_close(model.costs(state, actions.unsqueeze(1))[:, 0], expected)
    with pytest.raises(ValueError, match="actions of a box"):
        EnvironmentModel(CartPole(), world, 5)


def sample(generator, num):
    world = {"gain": 0.5 + torch.rand(num, generator=generator), "goal": torch.randn(num, 2, generator=generator)}
    return world, {"x": torch.zeros(num, 2)}


def make(world):
    return Integrator(world["gain"], world["goal"])


def test_a_rule_learns_to_plan():
    rule = LSTMRule(8, 1, "rnnprop", base_lr=0.05)
    problems = Problems(rule, PlanFamily(make, sample), 16, truncation=Truncation(5, 5), meta_loss=MetaLoss("final"))
    world, state = sample(seeded(99), 64)

    def cost():
        return GradientPlanner(rule).plan(make(world), state, 16, seeded(0)).cost.mean()

    before = cost()
    trainer = MetaTrainer(
        rule, LocalPool(Backprop(problems), theta_of(rule)), torch.optim.Adam(rule.parameters(), 0.03)
    )
    for _ in range(25):
        trainer.step()
    assert cost() < 0.7 * before


def test_what_a_planner_meets_is_its_own_closed_loop():
    planner, family = GradientPlanner(Adam(lr=0.2)), PlanFamily(make, sample)
    met = met_by(planner, family, 3, 4, 13, seeded(5))
    generator = seeded(5)
    world, state = sample(generator, 3)
    model, first = make(world), None
    for i in range(4):
        lanes = slice(3 * i, 3 * i + 3)
        torch.testing.assert_close(met.state["x"][lanes], state["x"])
        assert torch.equal(met.world["goal"][lanes], world["goal"])
        assert torch.equal(met.first[lanes], torch.zeros(3, Integrator.horizon, 2) if first is None else first)
        plan = planner.plan(model, state, 13, generator, first)
        state, first = model.step(state, plan.actions[:, 0])[0], plan.shifted()


def test_an_environments_episodes_are_met_until_they_are_over():
    environment = Ends()

    def make(world):
        return EnvironmentModel(environment, world, 3)

    def sample(generator, num):
        world = environment.sample(generator, num)
        return world, environment.reset(world, torch.rand(num, 2, generator=generator))

    met = met_by(GradientPlanner(Adam(lr=0.2)), PlanFamily(make, sample), 6, 8, 13, seeded(0))
    assert set(met.state) == set(sample(seeded(0), 1)[1])
    assert 6 < len(met.first) < 48 and len(met.state["position"]) == len(met.world["goal"]) == len(met.first)
    assert PlanFamily(make, sample, met, share=1.0).sample(seeded(0)).first.shape == (3, 2)


def test_tasks_begin_at_rest_or_where_a_planner_came():
    met = met_by(GradientPlanner(Adam(lr=0.2)), PlanFamily(make, sample), 2, 3, 13, seeded(0))
    among, generator = PlanFamily(make, sample, met, share=1.0), seeded(1)
    for _ in range(10):
        task = among.sample(generator)
        lanes = [i for i in range(6) if torch.equal(task.state["x"], met.state["x"][i])]
        logits = task.init(generator)["logits"]
        plans = [torch.tanh(logits).view(-1, 2) * Integrator.limit - met.first[i] for i in lanes]
        assert any(float(away.abs().max()) < 1e-2 for away in plans)
        expected = make({name: x[lanes[:1]] for name, x in met.world.items()}).cost(
            {"x": met.state["x"][lanes[:1]]}, torch.tanh(logits).view(1, -1, 2) * Integrator.limit
        )
        if len(lanes) == 1:
            torch.testing.assert_close(task.loss({"logits": logits}, None), expected[0])
    fresh = PlanFamily(make, sample, met, share=0.0).sample(generator)
    assert float(fresh.init(generator)["logits"].abs().max()) == 0.0
    with pytest.raises(ValueError, match="share is a part"):
        PlanFamily(make, sample, share=1.5)
    with pytest.raises(ValueError, match="a world and a step"):
        met_by(GradientPlanner(Adam()), among, 0, 3, 13, generator)


def test_a_learned_model_gains_most_of_what_the_true_one_would_gain():
    environment = PointMass(num_obstacles=0, spread=0.0, max_steps=20)
    generator = seeded(0)
    world = spread_over(environment.sample(generator), 256)
    noise = draw(environment, generator, 21, 256)
    noise = noise._replace(action=0.7 * noise.action[:1] + 0.3 * noise.action)  # to go somewhere
    running = begin(environment, world, noise.reset[0])
    steps, _ = rollout(
        environment, world, lambda seen, u: (2.0 * u - 1.0, u[..., 0]), running, noise._make(x[1:] for x in noise)
    )
    learned = fit_world_model(
        environment, steps, 6, generator, num_members=2, hidden=(32,), num_updates=800, caution=0.5
    )
    state = environment.reset(world, torch.rand(256, 2, generator=generator))
    true = EnvironmentModel(environment, world, 6)
    dreamed = {"observation": environment.observe(world, state)}
    idle = true.cost(state, torch.zeros(256, 6, 2)).mean()
    adam = GradientPlanner(Adam(lr=0.2))
    best = adam.plan(true, state, 61, generator).cost.mean()
    plan = adam.plan(learned, dreamed, 61, generator)
    reached = true.cost(state, plan.actions).mean()
    assert idle - reached > 0.5 * (idle - best)
    with pytest.raises(ValueError, match="needs 256 steps"):
        fit_world_model(environment, steps._make(x[:1, :9] for x in steps), 6, generator)
    assert Pendulum().action_space.size == 1


def test_tree_search_takes_the_shortest_way_to_a_key():
    environment = GridWorld(4, 2, 3, 16)
    world = environment.sample(seeded(1), 6)
    room = (world["key_room"] < 0).float().argmax(-1)  # one whose key lies in the corridor
    world["target"] = room
    state = environment.reset(world, torch.rand(6, 1, generator=seeded(2)))
    place, width = environment.place(world), environment.rooms.width
    away = (place % width - state["cell"] % width).abs()
    search, paid, generator = MCTS(depth=6, rollout=6), torch.zeros(6), seeded(3)
    for i in range(int(away.max())):
        found = search.plan(environment, world, state, 60, generator)
        assert torch.allclose(found.visits.sum(-1), torch.full((6,), 60.0)) or i > 0
        state, reward, _ = environment.step(world, state, found.action, torch.zeros(6, 0))
        paid += reward
    assert (paid > 0).all()


def test_tree_search_balances_a_pole_without_learning():
    environment = CartPole(max_steps=60)
    world = environment.sample(seeded(0), 4)
    state = environment.reset(world, torch.rand(4, 4, generator=seeded(1)))
    fell = torch.zeros(4, dtype=torch.bool)
    for _ in range(40):
        action = MCTS(depth=8, rollout=15).plan(environment, world, state, 24, seeded(2)).action
        state, _, ended = environment.step(world, state, action, torch.zeros(4, 0))
        fell |= ended
    assert not fell.any()
    with pytest.raises(ValueError, match="discrete actions"):
        MCTS().plan(Pendulum(), {}, state, 4, seeded(0))

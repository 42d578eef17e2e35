"""Acting with a plan: an environment in which a policy's actions are where a search begins."""

import pytest
import torch

from l2o.agents.environments import CartPole, PointMass
from l2o.agents.environments.base import spread_over
from l2o.agents.kind import Kind
from l2o.agents.planning.model import EnvironmentModel, can_plan
from l2o.agents.planning.planned import PLANNERS, planned
from l2o.agents.ppo import PPO
from l2o.rules import Adam
from l2o.types import seeded

MASS = PointMass(1, 0.4, 10)
VALUES = [{"name": name, "horizon": 3, "budget": 8} for name in PLANNERS]


def a_step(environment, *batch):
    world = spread_over(environment.sample(seeded(0), batch[0]), batch[1], dim=1)
    state = environment.reset(world, torch.rand(*batch, environment.reset_noise, generator=seeded(1)))
    action = 2.0 * torch.rand(*batch, 2, generator=seeded(2)) - 1.0
    return world, state, action, torch.zeros(*batch, 0)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value["name"])
def test_what_is_done_is_no_dearer_in_the_model_than_what_was_proposed(value):
    thinking = planned(MASS, value)
    world, state, action, _ = a_step(MASS, 4, 3)
    flat = {name: x.flatten(0, 1) for name, x in world.items()}
    model = EnvironmentModel(MASS, flat, 3)
    here = {name: x.flatten(0, 1) for name, x in state.items()}
    proposed = action.flatten(0, 1).unsqueeze(1).expand(-1, 3, -1)
    plan = thinking.planner.plan(model, here, 8, seeded(0), proposed)
    assert (plan.cost <= model.cost(here, proposed.clamp(-0.999, 0.999)) + 1e-4).all()
    assert not torch.allclose(plan.actions, proposed)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value["name"])
def test_steps_are_functions_of_their_arguments_with_any_leading_axes(value):
    thinking = planned(MASS, value)
    world, state, action, noise = a_step(thinking, 4, 3)
    after, reward, ended = thinking.step(world, state, action, noise)
    again, reward_again, _ = thinking.step(world, state, action, noise)
    assert torch.equal(reward, reward_again) and torch.equal(after["position"], again["position"])
    flat_world, flat_state = ({name: x.flatten(0, 1) for name, x in tree.items()} for tree in (world, state))
    _, flat_reward, _ = thinking.step(flat_world, flat_state, action.flatten(0, 1), noise.flatten(0, 1))
    torch.testing.assert_close(flat_reward, reward.flatten())
    assert reward.shape == ended.shape == (4, 3)


def test_agents_that_plan_fare_better_with_the_same_policies():
    few = PPO(num_envs=4, num_steps=10, num_epochs=1)
    kind = Kind(PointMass(1, 0.4, 20), (4,), algorithm=few, num_iterations=4)
    thinking = Kind(planned(kind.environment, VALUES[0]), (4,), algorithm=few, num_iterations=4)
    assert kind.policy == thinking.policy
    alone, with_plans = (one.scores(Adam(1e-3), seeded(0), 16) for one in (kind, thinking))
    assert (with_plans > alone).all()


def test_where_no_plan_can_be_made_the_environment_is_as_it_was():
    pole = CartPole(0.4, 10)
    assert planned(pole, VALUES[0]) is pole and not can_plan(pole)
    assert planned(MASS, {"name": "none"}) is MASS and can_plan(MASS)

import pytest
import torch

from l2o.agents.environments import GridWorld
from l2o.agents.episodes import begin, draw, rollout
from l2o.agents.policy import ActorCritic
from l2o.agents.ppo import PPO
from l2o.agents.skills.chooser_training import ChooserTraining
from l2o.agents.skills.choosers import Uniform
from l2o.agents.skills.curriculum import lifetimes
from l2o.agents.skills.grid_skills import GridSkills, aims
from l2o.agents.skills.learned_chooser import LearnedChooser
from l2o.agents.skills.options import Options
from l2o.rules import Adam
from l2o.types import seeded

GRID = GridWorld(2, 2, 3, 12)
POLICY = ActorCritic.of(GRID, hidden=(6,))


def skills(**options) -> GridSkills:
    return GridSkills(GRID, POLICY, Adam(0.01), PPO(2, 12), **{"budget": 100.0, "num_trials": 2, **options})


def test_a_practice_is_an_iteration_on_one_skill():
    curriculum = skills()
    learners = curriculum.start(3, seeded(0))
    chosen = torch.tensor([0, 2, 5])
    after, practice = curriculum.practise(learners, chosen, seeded(1))
    assert torch.equal(after.world["target"], chosen) and practice.cost.tolist() == [24.0] * 3
    assert (practice.trials >= 2.0).all() and (practice.successes <= practice.trials + 1e-5).all()
    assert (practice.successes - practice.successes.round()).abs().max() < 1e-4
    history = lifetimes(curriculum, Uniform(), 3, seeded(0), every=2)
    assert history.skill.shape == (4, 3) and history.competence.shape == (4, 3, 6)
    assert ((history.competence >= 0) & (history.competence <= 1)).all() and history.learnable.all()


def test_competence_is_the_share_of_first_episodes_that_succeed():
    curriculum = skills(num_trials=200)
    learners = curriculum.start(4, seeded(0))
    found = curriculum.competence(learners, seeded(1))
    easy = learners.world["key_room"] < 0  # keys in the corridor, beside the agent
    assert found[:, :2][easy].min() > 0.6 and found[:, 4:].max() < 0.35
    assert found[:, 2:4].le(found[:, :2] + 0.15).all()  # no door opens without its key


def test_what_nobody_knows_cannot_be_taught():
    training = ChooserTraining(skills(), taught=1, rewarded=0, num_lanes=4, copies=2)
    with pytest.raises(ValueError, match="taught must be 0"):
        training.run(LearnedChooser(4), seeded(0))
    ChooserTraining(skills(), taught=0, rewarded=1, num_lanes=4, copies=2).run(LearnedChooser(4), seeded(0))
    with pytest.raises(ValueError, match="budget must allow"):
        skills(budget=3.0)


def walker(action: int):
    """Weights of a policy that always does one thing."""
    params = {name: torch.zeros_like(p) for name, p in POLICY.init(seeded(0)).items()}
    params["actor.1.bias"][action] = 50.0
    return params


def test_an_option_acts_until_its_length_and_no_further_than_its_aim():
    left, right = walker(2), walker(3)
    chosen = {"target": aims(GRID)["target"][:2]}
    options = Options.of(GRID, POLICY, [left, right], chosen, length=3)
    world = GRID.sample(seeded(0), 1)
    world |= {"key": torch.full_like(world["key"], 0), "target": torch.tensor([5])}
    state = GRID.reset(world, torch.tensor([[0.0]]))
    noise = torch.full((1, options.step_noise), 0.5)
    after, reward, ended = options.step(world, state, torch.tensor([1]), noise)
    same = state
    for _ in range(3):
        same, _, _ = GRID.step(world, same, torch.tensor([3]), torch.zeros(1, 0))
    assert all(torch.equal(after[name], same[name]) for name in same) and not ended and reward == 0.0

    start = int(state["cell"][0])
    world["key"] = torch.tensor([[0, start + 1]])  # skill 1 is to take the key that lies one step to the right
    wide = GridWorld(4, 2, 3, 12)
    assert wide.rooms.width > GRID.rooms.width
    after, _, _ = options.step(world, state, torch.tensor([1]), noise)
    assert after["held"][0, 1] and int(after["cell"][0]) == start + 1


def test_options_are_an_environment_like_any_other():
    options = Options.of(GRID, POLICY, [walker(i) for i in range(4)], {"target": torch.arange(4)}, 2, 5)
    generator = seeded(0)
    world = options.sample(generator, 3)
    noise = draw(options, generator, 8, 3)
    running = begin(options, world, noise.reset[0])
    steps, _ = rollout(options, world, lambda seen, u: ((u[..., 0] * 4).long(), u[..., 0]), running, noise)
    assert steps.observation.shape == (8, 3, GRID.observation_size) and steps.done[4].all()
    with pytest.raises(ValueError, match="as many weights as aims"):
        Options.of(GRID, POLICY, [walker(0)], {"target": torch.arange(4)})

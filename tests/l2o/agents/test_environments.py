import math
import pickle

import pytest
import torch
from torch.func import vmap

from l2o.agents.environments import (
    Bandit,
    Box,
    CartPole,
    Discrete,
    GridWorld,
    Pendulum,
    PointMass,
    cart_pole,
    from_gymnasium,
    pendulum,
    spread_over,
)
from l2o.agents.episodes import begin, draw, rollout
from l2o.types import seeded, tree_leaves, tree_map

ENVIRONMENTS = {
    "bandit": Bandit(3, max_steps=4),
    "cart pole": CartPole(max_steps=20),
    "pendulum": Pendulum(max_steps=5),
    "point mass": PointMass(num_obstacles=2, max_steps=6),
    "open point mass": PointMass(num_obstacles=0, max_steps=6),
    "grid world": GridWorld(num_rooms=2, room_size=2, view=3, max_steps=12),
}
every_environment = pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=list(ENVIRONMENTS))


@pytest.fixture
def gymnasium():
    return pytest.importorskip("gymnasium")


def anything(environment):
    """Acts at random, or with the noise itself."""
    space = environment.action_space

    def act(seen, noise):
        if isinstance(space, Discrete):
            return (noise.squeeze(-1) * space.num).long(), noise.squeeze(-1)
        return space.limit * (3.0 * noise - 1.5), noise.sum(-1)

    return act


def played(environment, num_steps=15, worlds=3, num=2, seed=0):
    generator = seeded(seed)
    world = spread_over(environment.sample(generator, worlds), num, dim=1)
    noise = draw(environment, generator, num_steps + 1, worlds, num)
    running = begin(environment, world, noise.reset[0])
    return world, rollout(environment, world, anything(environment), running, noise._make(x[1:] for x in noise))[0]


@every_environment
def test_steps_are_a_function_of_the_seed_and_stay_within_what_is_promised(environment):
    _, steps = played(environment)
    assert all(torch.equal(a, b) for a, b in zip(steps, played(environment)[1], strict=True))
    assert not torch.equal(steps.action, played(environment, seed=1)[1].action)
    assert steps.observation.shape == (15, 3, 2, environment.observation_size)
    assert all(x.isfinite().all() for x in tree_leaves(steps))
    low, high = environment.return_range
    assert (steps.total[steps.done] >= low).all() and (steps.total[steps.done] <= high).all()
    assert pickle.loads(pickle.dumps(environment)) == environment


@every_environment
def test_one_world_under_vmap_takes_the_steps_that_it_takes_in_a_batch(environment):
    generator = seeded(0)
    world = environment.sample(generator, 4)
    noise = draw(environment, generator, 7, 4, 2)
    act = anything(environment)

    def lane(world, noise):
        places = spread_over(world, 2)
        running = begin(environment, places, noise.reset[0])
        return rollout(environment, places, act, running, noise._make(x[1:] for x in noise))[0]

    places = spread_over(world, 2, dim=1)
    running = begin(environment, places, noise.reset[0])
    together, _ = rollout(environment, places, act, running, noise._make(x[1:] for x in noise))
    alone = vmap(lane, in_dims=(0, 1), out_dims=1)(world, noise)
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b)


@every_environment
def test_an_episode_is_followed_by_a_fresh_one_after_its_end_or_its_time_limit(environment):
    _, steps = played(environment, num_steps=45)
    ages = torch.zeros(3, 2, dtype=torch.int64)
    for i in range(44):
        ages = ages + 1
        assert (steps.done[i] == (steps.terminated[i] | (ages == environment.max_steps))).all()
        seen, later = steps.next_observation[i], steps.observation[i + 1]
        assert torch.equal(seen[~steps.done[i]], later[~steps.done[i]])
        fresh = steps.reward[i + 1] == steps.total[i + 1]
        assert fresh[steps.done[i]].all()
        ages = torch.where(steps.done[i], 0, ages)
    assert steps.done.any()


def test_arms_pay_as_often_as_their_means_say():
    bandit = Bandit(2, max_steps=5)
    world = {"mean": torch.tensor([0.2, 0.9]).expand(4000, 2)}
    state = bandit.reset(world, torch.zeros(4000, 0))
    for arm, mean in ((0, 0.2), (1, 0.9)):
        uniform = torch.rand(4000, 1, generator=seeded(arm))
        _, reward, ended = bandit.step(world, state, torch.full((4000,), arm), uniform)
        assert reward.mean() == pytest.approx(mean, abs=0.03) and not ended.any()


def test_cart_poles_move_as_those_of_gymnasium(gymnasium):
    physics = {"gravity": 8.0, "cart_mass": 1.3, "pole_mass": 0.2, "half_length": 0.7, "force": 9.0}
    for own in (cart_pole.PHYSICS, physics):
        theirs = gymnasium.make("CartPole-v1").unwrapped
        theirs.gravity, theirs.masscart, theirs.masspole = own["gravity"], own["cart_mass"], own["pole_mass"]
        theirs.length, theirs.force_mag = own["half_length"], own["force"]
        theirs.total_mass, theirs.polemass_length = theirs.masscart + theirs.masspole, theirs.masspole * theirs.length
        first, _ = theirs.reset(seed=3)
        world = {name: torch.tensor(value, dtype=torch.float64) for name, value in own.items()}
        ours, state = CartPole(), {"motion": torch.from_numpy(theirs.state.copy())}
        assert abs(first).max() <= 0.05
        for i in range(200):
            action = int(i % 3 > 0)
            seen, reward, terminated, _, _ = theirs.step(action)
            state, paid, fell = ours.step(world, state, torch.tensor(action), torch.zeros(0))
            torch.testing.assert_close(ours.observe(world, state).float(), torch.from_numpy(seen))
            assert bool(fell) == terminated and float(paid) == reward
            if terminated:
                break
        assert terminated


def test_pendulums_move_as_those_of_gymnasium(gymnasium):
    for own in (pendulum.PHYSICS, {"gravity": 9.0, "mass": 1.4, "length": 0.8}):
        theirs = gymnasium.make("Pendulum-v1", g=own["gravity"]).unwrapped
        theirs.m, theirs.l = own["mass"], own["length"]
        theirs.reset(seed=1)
        angle, speed = torch.from_numpy(theirs.state.copy()).unbind()
        world = {name: torch.tensor(value, dtype=torch.float64) for name, value in own.items()}
        ours, state = Pendulum(), {"angle": angle, "speed": speed}
        for i in range(60):
            action = torch.tensor([3.0 * math.cos(0.3 * i)], dtype=torch.float64)  # beyond the limit at times
            seen, reward, *_ = theirs.step(action.numpy())
            state, paid, ended = ours.step(world, state, action, torch.zeros(0))
            torch.testing.assert_close(ours.observe(world, state).float(), torch.from_numpy(seen), rtol=1e-4, atol=1e-5)
            assert float(paid) == pytest.approx(reward, rel=1e-6) and not ended


def test_first_states_and_limits_are_those_of_gymnasium(gymnasium):
    for ours, name in ((CartPole(0.0), "CartPole-v1"), (Pendulum(0.0), "Pendulum-v1")):
        assert ours.max_steps == gymnasium.spec(name).max_episode_steps
        world = ours.sample(seeded(0), 1000)
        nominal = (cart_pole if name == "CartPole-v1" else pendulum).PHYSICS
        assert all(torch.allclose(world[key], torch.tensor(value)) for key, value in nominal.items())
        state = ours.reset(world, torch.rand(1000, ours.reset_noise, generator=seeded(1)))
        values = torch.cat([x.reshape(1000, -1) for x in state.values()], dim=-1)
        bounds = torch.tensor([0.05] * 4 if name == "CartPole-v1" else [math.pi, 1.0])
        assert (values.abs() <= bounds).all() and (values.abs().amax(0) > 0.97 * bounds).all()


def test_physics_spread_around_gymnasiums_as_far_as_asked():
    world = CartPole(spread=0.5).sample(seeded(0), 2000)
    logs = (world["gravity"] / 9.8).log()
    assert logs.abs().max() <= 0.5 + 1e-5 and logs.abs().max() > 0.49 and abs(logs.mean()) < 0.03
    assert torch.corrcoef(torch.stack([logs, world["force"].log()]))[0, 1].abs() < 0.1


def test_a_point_mass_obeys_newton_and_never_stands_in_an_obstacle():
    space = PointMass(num_obstacles=0)
    world = {"mass": torch.tensor(2.0), "drag": torch.tensor(0.5), "goal": torch.tensor([0.5, 0.0])}
    world |= {"middle": torch.zeros(0, 2), "radius": torch.zeros(0)}
    state = {"position": torch.zeros(2), "velocity": torch.tensor([0.2, 0.0])}
    state, reward, _ = space.step(world, state, torch.tensor([5.0, -1.0]), torch.zeros(0))  # 5 counts as 1
    torch.testing.assert_close(state["velocity"], torch.tensor([0.2 + 0.1 * (1.0 - 0.1) / 2.0, -0.05]))
    torch.testing.assert_close(state["position"], 0.1 * state["velocity"])
    distance = torch.tensor([0.5, 0.0]).sub(state["position"]).norm()
    assert float(reward) == pytest.approx(-float(distance) / math.sqrt(8.0))

    crowded = PointMass(num_obstacles=1, max_steps=60)
    world = {"mass": torch.tensor(1.0), "drag": torch.tensor(0.0), "goal": torch.tensor([0.9, 0.1])}
    world |= {"middle": torch.tensor([[0.0, 0.0]]), "radius": torch.tensor([0.2])}
    state = {"position": torch.tensor([-0.8, 0.02]), "velocity": torch.zeros(2)}
    nearest = 1.0
    for _ in range(60):
        state, _, _ = crowded.step(world, state, torch.tensor([1.0, 0.0]), torch.zeros(0))
        nearest = min(nearest, float(state["position"].norm()))
    assert nearest == pytest.approx(0.2, abs=1e-5)  # it met the obstacle, and got no deeper
    assert state["position"][0] > 0.5  # and slid along


def test_goals_are_never_inside_an_obstacle():
    world = PointMass(num_obstacles=4).sample(seeded(0), 500)
    distance = (world["middle"] - world["goal"].unsqueeze(-2)).norm(dim=-1)
    assert (distance > world["radius"] - 1e-5).all()


def way_to(environment, world, state, goal, with_new_keys=True):
    """The shortest way to a cell, as actions, found by breadth-first search over the environment's own steps."""
    first, frontier, seen = state, [(state, [])], {int(state["cell"])}
    while frontier:
        state, way = frontier.pop(0)
        if int(state["cell"]) == goal:
            return way, state
        for action in range(4):
            after, _, _ = environment.step(world, state, torch.tensor(action), torch.zeros(0))
            same = all(torch.equal(first[name], after[name]) for name in ("held", "opened"))
            if int(after["cell"]) not in seen and (same or with_new_keys):
                seen.add(int(after["cell"]))
                frontier.append((after, [*way, action]))
    return None, state


def places(world):
    return torch.cat([world["key"], world["door"], world["goal"]]).tolist()


def test_every_skill_can_be_shown_after_its_prerequisites_and_not_before():
    environment = GridWorld(num_rooms=2, room_size=2, view=3)
    for seed in range(2):
        world = environment.sample(seeded(seed))
        state = environment.reset(world, torch.tensor([0.3]))
        graph, done = environment.prerequisites(world), torch.zeros(environment.num_skills, dtype=torch.bool)
        for _ in range(environment.num_skills):
            if done.all():
                break
            lacks = (graph & ~done).any(dim=1)
            for skill in lacks.nonzero().flatten().tolist() if not done.any() else ():
                assert way_to(environment, world, state, places(world)[skill], with_new_keys=False)[0] is None
            skill = int((~done & ~lacks).nonzero()[0])
            way, state = way_to(environment, world, state, places(world)[skill])
            assert way is not None and environment.achieved(state)[skill]
            done |= environment.achieved(state)
        assert done.all()


def test_the_target_skill_alone_pays_and_ends_the_episode():
    environment = GridWorld(num_rooms=2, room_size=2)
    world = environment.sample(seeded(3))
    first_key = int((world["key_room"] < 0).nonzero()[0])
    for target, expected in ((first_key, True), (2 * environment.num_rooms, False)):
        world["target"] = torch.tensor(target)
        state = environment.reset(world, torch.tensor([0.0]))
        way, _ = way_to(environment, world, state, int(world["key"][first_key]))
        for action in way or [0]:
            state, reward, ended = environment.step(world, state, torch.tensor(action), torch.zeros(0))
        assert state["held"][first_key] and bool(ended) == expected and float(reward) == float(expected)


def test_skill_graphs_are_trees_of_many_shapes():
    world = GridWorld(num_rooms=4).sample(seeded(0), 400)
    depth = torch.zeros(400, 4, dtype=torch.int64)
    room = world["key_room"]
    for _ in range(5):
        depth = depth + (room >= 0)
        room = torch.where(room < 0, -1, world["key_room"].gather(-1, room.clamp(min=0)))
    assert (room < 0).all()  # no key lies, however many doors on, behind its own door
    assert set(depth.amax(-1).tolist()) == {0, 1, 2, 3}
    assert (world["goal"] != world["key"]).all() and not (
        world["goal"].unsqueeze(-1) == world["key"].unsqueeze(-2)
    ).any()


def test_gymnasium_environments_run_in_a_batch_and_start_as_the_seed_says(gymnasium):
    for name, space in (("CartPole-v1", Discrete(2)), ("Pendulum-v1", Box(1)), ("FrozenLake-v1", Discrete(4))):
        environment = from_gymnasium(name, max_steps=6)
        assert environment.action_space == space
        world, steps = played(environment, num_steps=9)
        assert world == {} and steps.observation.shape == (9, 3, 2, environment.observation_size)
        again = played(from_gymnasium(name, max_steps=6), num_steps=9)[1]
        assert all(torch.equal(a, b) for a, b in zip(steps, again, strict=True))
        assert steps.done[:6].any(dim=0).all()
        environment.close()


def test_a_gymnasium_cart_pole_is_ours(gymnasium):
    theirs, ours = from_gymnasium("CartPole-v1"), CartPole(spread=0.0)
    state = theirs.reset({}, torch.tensor([[0.1], [0.7]]))
    world, own = ours.sample(seeded(0), 2), {"motion": state["observation"]}
    for i in range(5):
        action = torch.tensor([i % 2, 1])
        state, reward, _ = theirs.step({}, state, action, torch.zeros(2, 0))
        own, paid, _ = ours.step(world, own, action, torch.zeros(2, 0))
        torch.testing.assert_close(theirs.observe({}, state), own["motion"], rtol=1e-4, atol=1e-5)
        assert torch.equal(reward, paid)


def test_minigrid_is_seen_in_numbers_and_ends_by_itself(gymnasium):
    pytest.importorskip("minigrid")
    environment = from_gymnasium("minigrid:MiniGrid-Empty-5x5-v0")
    assert environment.action_space == Discrete(7) and environment.max_steps == 4 * 5 * 5
    assert environment.observation_size == 4 + 7 * 7 * 3  # its direction and the cells in view, not its mission's words
    short = from_gymnasium("minigrid:MiniGrid-Empty-5x5-v0", max_steps=3)
    _, steps = played(short, num_steps=7, worlds=2, num=1)
    assert steps.done[2].all() and steps.done[5].all()
    state = environment.reset({}, torch.tensor([[0.5]]))
    for action in (2, 2, 1, 2, 2):  # two cells on, turn right, two cells down: the goal
        state, reward, ended = environment.step({}, state, torch.tensor([action]), torch.zeros(1, 0))
    assert ended and 0.9 < float(reward) <= 1.0
    environment.close(), short.close()


def test_what_a_simulator_cannot_do_is_told(gymnasium):
    environment = from_gymnasium("CartPole-v1")
    state = environment.reset({}, torch.rand(2, 1))
    environment.step({}, state, torch.tensor([0, 1]), torch.zeros(2, 0))
    with pytest.raises(ValueError, match="gone on from once"):
        environment.step({}, state, torch.tensor([0, 1]), torch.zeros(2, 0))
    with pytest.raises(ValueError, match="outside of vmap"):
        vmap(lambda s, a: environment.step({}, s, a, torch.zeros(0)))(state, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="Gymnasium can make"):
        from_gymnasium("NoSuchThing-v0")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Bandit(1),
        lambda: Bandit(max_steps=0),
        lambda: CartPole(spread=-0.1),
        lambda: Pendulum(spread=float("nan")),
        lambda: PointMass(num_obstacles=-1),
        lambda: GridWorld(num_rooms=3),
        lambda: GridWorld(room_size=1),
        lambda: GridWorld(view=4),
    ],
)
def test_families_without_sense_are_refused(make):
    with pytest.raises(ValueError, match="got"):
        make()


def test_worlds_that_differ_give_episodes_that_differ():
    environment = CartPole()
    world, steps = played(environment, num_steps=4)
    same = tree_map(lambda x: x[:1].expand_as(x), world)
    assert not torch.equal(same["force"], world["force"])
    assert steps.observation[1, 0].ne(steps.observation[1, 1]).any()

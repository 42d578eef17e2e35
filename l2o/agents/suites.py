"""Suites of tasks on which a rule learns to train agents: `l2o meta-train --tasks l2o.agents.suites:control`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace

from l2o.agents.environments import Bandit, CartPole, Environment, GridWorld, PointMass
from l2o.agents.kind import Kind
from l2o.agents.losses import Hyperparameters
from l2o.agents.policy_task import PolicyFamily, PolicyTask
from l2o.agents.ppo import PPO
from l2o.tasks.base import Task
from l2o.training.suites import Suite
from l2o.types import seeded

HYPERPARAMETERS = Hyperparameters(discount=0.98, entropy=0.01)


def control() -> Suite:
    """Small agents of cart poles and point masses, each with physics of its own; 100 updates.

    Validation: wider physics and networks. Test: physics further out, two layers, and environments that meta-training
    never sees: grid worlds with keys and doors, and bandits. No pendulum: in 100 updates Adam does not swing it up, so
    there would be nothing to tell rules apart by.
    """
    family = PolicyFamily((CartPole(0.4, 100), PointMass(2, 0.4, 50)), hyperparameters=HYPERPARAMETERS)
    wide = replace(family, hidden=(32,))
    deep = replace(family, hidden=(24,), depth=(2,), activation=("relu",))
    validation: dict[str, Task] = {
        "cart pole": _one(wide, CartPole(0.6, 100), 1000),
        "point mass": _one(wide, PointMass(3, 0.6, 50), 1001),
    }
    test: dict[str, Task] = {
        "cart pole": _one(deep, CartPole(0.8, 200), 2000),
        "point mass": _one(deep, PointMass(4, 0.8, 80), 2001),
        "grid world": _one(wide, GridWorld(2, 2, 3, 40), 2002),
        "bandit": _one(wide, Bandit(10, 20), 2003),
    }
    return Suite(family, validation, test, num_steps=100, score="area")


def _one(family: PolicyFamily, environment: Environment, seed: int) -> PolicyTask:
    """An agent of the family in a world of another one."""
    return replace(family, environments=(environment,)).sample(seeded(seed))


@dataclass(frozen=True)
class LifeSuite:
    """Kinds of lives in three parts.

    Arguments:
        train: what rules, and agents that improve themselves, learn from.
        validation: that may guide choices, a gate's too.
        test: for the report; nothing is chosen by them.
    """

    train: dict[str, Kind]
    validation: dict[str, Kind]
    test: dict[str, Kind]


def ppo() -> LifeSuite:
    """PPO on cart poles and point masses with physics of their own, 80 updates of 10,240 steps.

    Validation: their wider physics and networks. Test: the first family again; then what meta-training never sees:
    physics further out, two layers, lives twice as long, grid worlds with keys and doors.
    """
    pole = Kind(CartPole(0.4), hyperparameters=Hyperparameters(discount=0.98, value=0.005))
    mass = Kind(PointMass(2, 0.4, 50), hyperparameters=HYPERPARAMETERS)
    return LifeSuite(
        {"cart pole": pole, "point mass": mass},
        {
            "cart pole": replace(pole, environment=CartPole(0.6), hidden=(48,)),
            "point mass": replace(mass, environment=PointMass(3, 0.6, 50), hidden=(48,)),
        },
        {
            "cart pole": pole,
            "cart pole, wider physics": replace(pole, environment=CartPole(0.8)),
            "cart pole, two layers": replace(pole, hidden=(64, 64)),
            "cart pole, longer lives": replace(pole, num_iterations=40),
            "point mass, wider physics": replace(mass, environment=PointMass(4, 0.8, 80), hidden=(64,)),
            "grid world": Kind(GridWorld(2, 2, 3, 40), (64,), HYPERPARAMETERS, num_iterations=40),
        },
    )


def short() -> LifeSuite:
    """Lives of 2,560 steps and 40 updates, of small agents of short cart poles and of point masses: cheap ones.

    Validation: other physics. Test: physics further out, and wider networks.
    """
    few = PPO(num_envs=8, num_steps=32)
    scale = Hyperparameters(discount=0.98, value=0.02)
    pole = Kind(CartPole(0.4, 200), (16,), scale, few, 10)
    mass = Kind(PointMass(2, 0.4, 50), (16,), HYPERPARAMETERS, few, 10)
    return LifeSuite(
        {"cart pole": pole, "point mass": mass},
        {
            "cart pole": replace(pole, environment=CartPole(0.6, 200)),
            "point mass": replace(mass, environment=PointMass(3, 0.6, 50)),
        },
        {
            "cart pole": replace(pole, environment=CartPole(0.8, 200), hidden=(32,)),
            "point mass": replace(mass, environment=PointMass(4, 0.8, 50), hidden=(32,)),
        },
    )


def worlds() -> LifeSuite:
    """Lives of 1,536 steps and 32 updates, in which skills can be carried over where policies are of one size.

    Training: three cart poles, which are slow to learn, and three point masses, which soon know enough. Validation:
    other physics, and a wider network, which no skill fits. Test: physics further out, and a network wider still.
    """
    few = PPO(num_envs=16, num_steps=12)
    pole = Kind(CartPole(0.2, 200), (16,), Hyperparameters(discount=0.98, value=0.02), few, 8)
    mass = Kind(PointMass(2, 0.2, 50), (16,), HYPERPARAMETERS, few, 8)

    def both(spread: float) -> tuple[Kind, Kind]:
        cart, point = CartPole(spread, 200), PointMass(2, spread, 50)
        return replace(pole, environment=cart), replace(mass, environment=point)

    (wide, wide_mass), (wider, wider_mass), (other, other_mass), (far, far_mass) = map(both, (0.4, 0.6, 0.5, 0.8))
    return LifeSuite(
        {
            "cart pole": pole,
            "wide cart pole": wide,
            "wider cart pole": wider,
            "point mass": mass,
            "wide point mass": wide_mass,
            "wider point mass": wider_mass,
        },
        {"cart pole": other, "point mass": other_mass, "cart pole, wider network": replace(other, hidden=(24,))},
        {"cart pole": far, "point mass": far_mass, "cart pole, wider network": replace(far, hidden=(32,))},
    )


LIVES: dict[str, Callable[[], LifeSuite]] = {"ppo": ppo, "short": short, "worlds": worlds}


def lives(name: str) -> LifeSuite:
    """Kinds of lives by name.

    Raises:
        ValueError: unknown name.
    """
    if name not in LIVES:
        close = difflib.get_close_matches(name, LIVES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"lives must be one of {', '.join(LIVES)}; got {name!r}.{hint}")
    return LIVES[name]()

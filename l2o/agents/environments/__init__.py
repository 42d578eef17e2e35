"""Families of environments as pure functions of batched tensors."""

from l2o.agents.environments.bandit import Bandit
from l2o.agents.environments.base import Box, Discrete, Environment, State, World, spread_over
from l2o.agents.environments.cart_pole import CartPole
from l2o.agents.environments.grid_world import GridWorld
from l2o.agents.environments.pendulum import Pendulum
from l2o.agents.environments.point_mass import PointMass
from l2o.agents.environments.simulated import from_gymnasium

__all__ = [
    "Bandit",
    "Box",
    "CartPole",
    "Discrete",
    "Environment",
    "GridWorld",
    "Pendulum",
    "PointMass",
    "State",
    "World",
    "from_gymnasium",
    "spread_over",
]

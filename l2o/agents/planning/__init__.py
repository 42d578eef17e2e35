"""Planning: searches for cheap actions through a model, known or learned."""

from l2o.agents.planning.gradient_planner import GradientPlanner, PlanFamily, PlanTask
from l2o.agents.planning.mcts import MCTS
from l2o.agents.planning.model import EnvironmentModel, Model
from l2o.agents.planning.planner import CEM, MPPI, Plan, Planner
from l2o.agents.planning.world_model import WorldModel, fit_world_model

__all__ = [
    "CEM",
    "MCTS",
    "MPPI",
    "EnvironmentModel",
    "GradientPlanner",
    "Model",
    "Plan",
    "PlanFamily",
    "PlanTask",
    "Planner",
    "WorldModel",
    "fit_world_model",
]

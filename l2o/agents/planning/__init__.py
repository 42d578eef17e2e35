"""Planning: searches for cheap actions through a model, known or learned."""

from l2o.agents.planning.gradient_planner import GradientPlanner
from l2o.agents.planning.mcts import MCTS
from l2o.agents.planning.model import EnvironmentModel, Model
from l2o.agents.planning.plan_family import Met, PlanFamily, PlanTask, met_by
from l2o.agents.planning.planner import CEM, MPPI, Plan, Planner
from l2o.agents.planning.world_model import WorldModel, fit_world_model

__all__ = [
    "CEM",
    "MCTS",
    "MPPI",
    "EnvironmentModel",
    "GradientPlanner",
    "Met",
    "Model",
    "Plan",
    "PlanFamily",
    "PlanTask",
    "Planner",
    "WorldModel",
    "fit_world_model",
    "met_by",
]

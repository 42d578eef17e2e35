"""The drop-in: a real torch.optim.Optimizer around any update rule."""

from l2o.optim.guard import Watchdog
from l2o.optim.learned_optimizer import LearnedOptimizer

__all__ = ["LearnedOptimizer", "Watchdog"]

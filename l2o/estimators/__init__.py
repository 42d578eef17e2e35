"""How theta is improved: estimators of the meta-gradient."""

from l2o.estimators.backprop import Backprop
from l2o.estimators.base import GradientEstimator, MetaGradient
from l2o.estimators.episodic import Episodic, MultiStepLoss, Reptile
from l2o.estimators.es import ES, NRES, PES
from l2o.estimators.grouped import Grouped
from l2o.estimators.meta_loss import MetaLoss
from l2o.estimators.problems import Problems
from l2o.estimators.truncation import Truncation

__all__ = [
    "ES",
    "NRES",
    "PES",
    "Backprop",
    "Episodic",
    "GradientEstimator",
    "Grouped",
    "MetaGradient",
    "MetaLoss",
    "MultiStepLoss",
    "Problems",
    "Reptile",
    "Truncation",
]

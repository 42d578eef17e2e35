"""How parameters move: hand-designed and learned update rules."""

from l2o.rules.base import OptState, UpdateRule
from l2o.rules.lstm import LSTMRule

__all__ = ["LSTMRule", "OptState", "UpdateRule"]

"""How parameters move: hand-designed and learned update rules."""

from l2o.rules.base import OptState, UpdateRule
from l2o.rules.celo import Celo, CeloAdam
from l2o.rules.hand_designed import SGD, Adam, AdamW, Momentum, Muon
from l2o.rules.learned_muon import LearnedMuon
from l2o.rules.lstm import LSTMRule
from l2o.rules.matrix import MatrixRule
from l2o.rules.mlp import MLPRule
from l2o.rules.open import OPEN
from l2o.rules.scaled import Scaled
from l2o.rules.velo import VeLO

__all__ = [
    "OPEN",
    "SGD",
    "Adam",
    "AdamW",
    "Celo",
    "CeloAdam",
    "LSTMRule",
    "LearnedMuon",
    "MLPRule",
    "MatrixRule",
    "Momentum",
    "Muon",
    "OptState",
    "Scaled",
    "UpdateRule",
    "VeLO",
]

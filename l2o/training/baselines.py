"""What learned rules are compared with."""

from __future__ import annotations

from l2o.load import load
from l2o.training.evaluate import Contestant

RATES = tuple(10.0 ** (k / 2) for k in range(-8, 3))
"""The baselines' sweep: 11 rates, two a decade from 1e-4 to 10."""

BASELINES = {"SGD": "sgd", "momentum": "momentum", "Adam": "adam"}
"""The name to report, and the rule's."""


def baselines() -> dict[str, Contestant]:
    """The baselines, each with the whole sweep."""
    return {name: Contestant(load(key, lr=1.0), RATES) for name, key in BASELINES.items()}

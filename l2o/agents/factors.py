"""An agent's hyperparameters: factors on those that each kind of life has of itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from l2o.agents.advantages import Number
from l2o.agents.losses import Hyperparameters
from l2o.agents.tuning import Knob, Scale

SCALES: dict[str, Scale] = {
    "learning_rate": "log",
    "discount": "complement",
    "decay": "complement",
    "clip": "log",
    "entropy": "log",
    "value": "log",
    "max_grad_norm": "log",
}
"""What has a factor, and what it multiplies: the hyperparameter, or its distance from 1 (`complement`)."""


RECALLED = "recalled"
"""A factor by itself: on the learning rate of lives that begin with a skill, which long steps would spoil."""

FACTORS = (*SCALES, RECALLED)
"""All that an agent has."""


def scaled(base: Hyperparameters, factors: Mapping[str, Number], recalled: bool = False) -> Hyperparameters:
    """Hyperparameters, each times its factor, which may be a tensor of one for every lane.

    Arguments:
        recalled: whether they are for lives that begin with a skill.
    """
    found = {name: _times(getattr(base, name), factors[name], name) for name in SCALES if name in factors}
    after = base._replace(**found)
    return after._replace(learning_rate=after.learning_rate * factors[RECALLED]) if recalled else after


def knobs_around(base: Hyperparameters, reach: float = 10.0, names: Iterable[str] = tuple(SCALES)) -> dict[str, Knob]:
    """Knobs for factors between 1 / reach and reach; none for what is 0, or has no distance from 1."""
    found = {}
    for name in names:
        x, scale = float(getattr(base, name)), SCALES[name]
        if scale == "log" and x > 0.0:
            found[name] = Knob(x / reach, x * reach)
        elif scale == "complement" and 0.0 < x < 1.0:
            found[name] = Knob(max(0.1 * x, 1.0 - (1.0 - x) * reach), 1.0 - (1.0 - x) / reach, scale)
    return found


def moved(
    factors: Mapping[str, float], knobs: Mapping[str, Knob], base: Hyperparameters, raw: Mapping[str, Tensor]
) -> dict[str, float]:
    """Factors, after the knobs of `base` were moved to `raw`, on average."""
    after = dict(factors)
    for name, knob in knobs.items():
        before = float(knob.raw(torch.tensor(float(getattr(base, name)))))
        after[name] = factors[name] * math.exp(float(raw[name].mean()) - before)
    return after


def _times(x: float, factor: Number, name: str) -> Number:
    if SCALES[name] == "log":
        return factor * x
    product = 1.0 - (1.0 - x) * factor
    return product.clamp(min=0.0) if isinstance(product, Tensor) else max(0.0, product)

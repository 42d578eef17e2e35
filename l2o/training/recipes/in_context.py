"""Learners that adapt by what stands before the question."""

from __future__ import annotations

from functools import partial

from l2o.learners.base import Learner
from l2o.learners.in_context.transformer import InContextTransformer
from l2o.training.recipes.base import FEED_FORWARD, Given, Recipe, sgd


def _in_context(given: Given, attention: str = "softmax") -> Learner:
    if given.inputs is None:
        raise ValueError("in-context learners read inputs as they are, as vectors; these data are others.")
    return InContextTransformer(given.inputs, given.outputs, depth=6, heads=4, attention=attention)


SETTINGS = FEED_FORWARD | {"num_episodes": 64, "lr": 1e-3, "max_grad_norm": 1.0}

RECIPES: dict[str, Recipe] = {
    "in-context": Recipe(_in_context, sgd, settings=SETTINGS),
    "in-context-linear": Recipe(partial(_in_context, attention="linear"), sgd, settings=SETTINGS),
}

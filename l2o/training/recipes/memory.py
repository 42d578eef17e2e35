"""Learners that write down what they see."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from l2o.learners.answers import features_of
from l2o.learners.base import Learner
from l2o.learners.memory.core import MemoryCore
from l2o.learners.memory.dnc import DNC
from l2o.learners.memory.learner import MemoryLearner, inputs_for
from l2o.learners.memory.mann import MANN
from l2o.learners.memory.ntm import NTM
from l2o.training.recipes.base import FEW_QUERIES, Given, Recipe, sgd

HEADS = 4
"""Of MANN, each of which writes a row for an example."""


def _memory(given: Given, cls: Callable[..., MemoryCore], rows: int, each: int = 1, **sizes: Any) -> Learner:
    """A memory of at least so many rows, and enough for the support sets in training, where an example takes `each`."""
    encoder = given.make(0)
    rows = max(rows, each * given.rows)
    core = cls(inputs_for(features_of(encoder), given.outputs), given.outputs, rows=rows, **sizes)
    return MemoryLearner(encoder, core)


RECIPES: dict[str, Recipe] = {
    "ntm": Recipe(partial(_memory, cls=NTM, rows=64, width=40, associative=True), sgd, settings=FEW_QUERIES),
    "dnc": Recipe(partial(_memory, cls=DNC, rows=32, width=40, associative=True), sgd, settings=FEW_QUERIES),
    "mann": Recipe(partial(_memory, cls=MANN, rows=32, each=HEADS, num_reads=HEADS), sgd, settings=FEW_QUERIES),
}
"""Labels come with their examples: in an episode, unlike in the streams of MANN's paper, there is no reason to wait."""

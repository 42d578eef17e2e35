"""Learners whose adaptation is a network of its own."""

from __future__ import annotations

from functools import partial
from typing import Any

from l2o.learners.answers import features_of
from l2o.learners.backbones import MLP
from l2o.learners.base import Learner
from l2o.learners.black_box.cnaps import CNAPs
from l2o.learners.black_box.hypernetwork import Hypernetwork
from l2o.learners.black_box.recurrent import RecurrentLearner
from l2o.learners.black_box.snail import SNAIL
from l2o.training.recipes.base import FEED_FORWARD, FEW_QUERIES, Given, Recipe, reader, sgd


def _recurrent(given: Given, cell: str) -> Learner:
    return RecurrentLearner(reader(given), given.outputs, cell)


def _snail(given: Given) -> Learner:
    """With the sizes of the paper for images, and with small ones for vectors."""
    small: dict[str, Any] = {} if given.inputs is None else {"filters": 32, "attention": ((32, 32),) * 3}
    return SNAIL(reader(given), given.outputs, given.rows + 1, **small)


def _hypernetwork(given: Given, chunk: int | None = None) -> Learner:
    """A perceptron of one hidden layer is generated: of vectors, or of the embeddings of images."""
    encoder, embedded = reader(given), given.inputs is None
    target = MLP((given.inputs or features_of(encoder), 64, given.outputs))
    return Hypernetwork(target, encoder, given.outputs, embedded, hidden=(256,), chunk=chunk)


def _cnaps(given: Given) -> Learner:
    """With a backbone that is trained along, because there is none that was trained before."""
    return CNAPs(given.make(0), given.make(0), given.way, frozen=False)


RECIPES: dict[str, Recipe] = {
    "lstm": Recipe(partial(_recurrent, cell="lstm"), sgd, settings=FEW_QUERIES),
    "gru": Recipe(partial(_recurrent, cell="gru"), sgd, settings=FEW_QUERIES),
    "snail": Recipe(_snail, sgd, settings=FEW_QUERIES),
    "hypernetwork": Recipe(_hypernetwork, sgd, settings=FEW_QUERIES),
    "chunked-hypernetwork": Recipe(partial(_hypernetwork, chunk=200), sgd, settings=FEW_QUERIES),
    "cnaps": Recipe(_cnaps, sgd, classifies=True, settings=FEED_FORWARD | {"num_episodes": 4, "train_query": 5}),
}

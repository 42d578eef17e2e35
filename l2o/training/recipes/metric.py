"""Learners that compare."""

from __future__ import annotations

from l2o.learners.answers import features_of
from l2o.learners.base import Learner
from l2o.learners.metric.matching import MatchingNetwork
from l2o.learners.metric.prototypical import PrototypicalNetwork
from l2o.learners.metric.relation import RelationEncoder, RelationNetwork
from l2o.learners.metric.ridge import RidgeHead, SVMHead
from l2o.learners.metric.siamese import SiameseNetwork
from l2o.training.recipes.base import FEED_FORWARD, Given, Recipe, reader, sgd


def _prototypical(given: Given) -> Learner:
    return PrototypicalNetwork(given.make(0), given.way)


def _ridge(given: Given) -> Learner:
    return RidgeHead(given.make(0), given.way)


def _svm(given: Given) -> Learner:
    return SVMHead(given.make(0), given.way)


def _matching(given: Given) -> Learner:
    return MatchingNetwork(given.make(0), given.way)


def _siamese(given: Given) -> Learner:
    return SiameseNetwork(given.make(0), given.way)


def _relation(given: Given) -> Learner:
    """Of pictures with the encoder and the relation module of the paper in place of the usual network."""
    if given.inputs is not None:
        encoder = reader(given)
        return RelationNetwork(encoder, given.way, num_features=features_of(encoder))
    chosen = {name: given.options[name] for name in ("width", "norm", "precision") if name in given.options}
    return RelationNetwork(RelationEncoder(**chosen), given.way, **chosen)


# Snell et al., 2017, section 3.1: more classes in training than in evaluation
METRIC = FEED_FORWARD | {"num_episodes": 1}

RECIPES: dict[str, Recipe] = {
    "prototypical": Recipe(_prototypical, sgd, classifies=True, settings=METRIC | {"train_way": 60, "train_query": 5}),
    "matching": Recipe(
        _matching, sgd, classifies=True, settings=METRIC | {"train_way": 20, "train_query": 5, "num_episodes": 2}
    ),
    "siamese": Recipe(
        _siamese, sgd, classifies=True, settings=METRIC | {"train_way": 20, "train_query": 5, "num_episodes": 2}
    ),
    "r2d2": Recipe(_ridge, sgd, classifies=True, settings=METRIC | {"num_episodes": 4}),
    "metaoptnet": Recipe(_svm, sgd, classifies=True, settings=METRIC | {"num_episodes": 4}),
    "relation": Recipe(
        _relation, sgd, classifies=True, settings=METRIC | {"train_way": 10, "train_query": 10, "num_episodes": 2}
    ),
}

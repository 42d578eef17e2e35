"""Named learners: how each is built from a network, and the settings that its paper trains it with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from l2o.learners.backbones import Conv4
from l2o.learners.base import Learner
from l2o.learners.gradient.cavia import CAVIA, FiLMConv4, WithContext
from l2o.learners.gradient.imaml import IMAML
from l2o.learners.gradient.maml import MAML
from l2o.learners.gradient.maml_plus_plus import MAMLPlusPlus, StepRates
from l2o.learners.gradient.meta_curvature import MetaCurvature
from l2o.learners.gradient.meta_lstm import MetaLSTMRule
from l2o.learners.gradient.meta_sgd import MetaSGD, shapes_of
from l2o.learners.metric.matching import MatchingNetwork
from l2o.learners.metric.prototypical import PrototypicalNetwork
from l2o.learners.metric.relation import RelationEncoder, RelationNetwork
from l2o.learners.metric.ridge import RidgeHead, SVMHead
from l2o.learners.metric.siamese import SiameseNetwork
from l2o.rules.base import UpdateRule
from l2o.rules.hand_designed import SGD

Network = Callable[..., nn.Module]
"""Makes the usual network for a suite's inputs, with so many outputs (0: an embedding)."""


@dataclass(frozen=True)
class Recipe:
    """A learner by name.

    Arguments:
        learner: from (make network, outputs, classes of an episode or None where they vary).
        rule: from (the learner, inner rate), the inner rule; None for learners without steps of their own.
        learns_rule: whether the rule's theta is trained too.
        estimator: episodic or reptile.
        settings: what it is trained with where nothing else is said; names are those of `LearnConfig`.
    """

    learner: Callable[[Network, int, int | None], Learner]
    rule: Callable[[Learner, float], UpdateRule] | None = None
    learns_rule: bool = False
    estimator: str = "episodic"
    settings: Mapping[str, Any] = field(default_factory=dict)


def _sgd(learner: Learner, lr: float) -> UpdateRule:
    return SGD(lr)


def _maml(make: Network, outputs: int, way: int | None) -> Learner:
    return MAML(make(outputs))


def _anil(make: Network, outputs: int, way: int | None) -> Learner:
    return MAML(make(outputs), adapted=("head.",))


def _boil(make: Network, outputs: int, way: int | None) -> Learner:
    return MAML(make(outputs), frozen=("head.",))


def _maml_plus_plus(make: Network, outputs: int, way: int | None) -> Learner:
    return MAMLPlusPlus(make(outputs), num_steps=5)


def _imaml(make: Network, outputs: int, way: int | None) -> Learner:
    return IMAML(make(outputs))


def _cavia(make: Network, outputs: int, way: int | None) -> Learner:
    network = make(outputs)
    if isinstance(network, Conv4):
        return CAVIA(FiLMConv4(network), num_context=100)
    return CAVIA(WithContext(make(outputs, context=5)), num_context=5)


def _meta_sgd(learner: Learner, lr: float) -> UpdateRule:
    return MetaSGD(shapes_of(learner), lr)


def _meta_curvature(learner: Learner, lr: float) -> UpdateRule:
    return MetaCurvature(shapes_of(learner), lr)


def _step_rates(learner: Learner, lr: float) -> UpdateRule:
    return StepRates(shapes_of(learner), 5, lr)


def _meta_lstm(learner: Learner, lr: float) -> UpdateRule:
    return MetaLSTMRule()


def _prototypical(make: Network, outputs: int, way: int | None) -> Learner:
    return PrototypicalNetwork(make(0), way)


def _ridge(make: Network, outputs: int, way: int | None) -> Learner:
    return RidgeHead(make(0), way)


def _svm(make: Network, outputs: int, way: int | None) -> Learner:
    return SVMHead(make(0), way)


def _matching(make: Network, outputs: int, way: int | None) -> Learner:
    return MatchingNetwork(make(0), way)


def _siamese(make: Network, outputs: int, way: int | None) -> Learner:
    return SiameseNetwork(make(0), way)


def _relation(make: Network, outputs: int, way: int | None) -> Learner:
    """With the encoder and the relation module of the paper in place of the usual network."""
    options = make.keywords if isinstance(make, partial) else {}
    chosen = {name: options[name] for name in ("width", "norm", "precision") if name in options}
    return RelationNetwork(RelationEncoder(**chosen), way, **chosen)


# Finn et al., 2017, appendix A.1: strided convolutions, 1 step in training and 3 in evaluation, meta-batches of 32
MAML_SETTINGS = {"inner_lr": 0.4, "inner_steps": 1, "test_steps": 3, "num_episodes": 32, "strided": True}
# Snell et al., 2017, section 3.1: more classes in training than in evaluation
METRIC = {"norm": "running", "num_episodes": 1, "inner_steps": 0}

RECIPES: dict[str, Recipe] = {
    "maml": Recipe(_maml, _sgd, settings=MAML_SETTINGS),
    "fomaml": Recipe(_maml, _sgd, settings=MAML_SETTINGS | {"order": "first"}),
    # Nichol et al., 2018, table 6, but for SGD inside and Adam outside: the authors' Adam inside keeps its averages
    # from episode to episode, which an inner loop without memory does not; with fresh ones it does not learn
    "reptile": Recipe(
        _maml,
        _sgd,
        estimator="reptile",
        settings={
            "inner_lr": 0.1,
            "inner_steps": 5,
            "test_steps": 50,
            "inner_batch": 10,
            "train_shot": 10,
            "num_episodes": 5,
            "strided": True,
        },
    ),
    "anil": Recipe(_anil, _sgd, settings=MAML_SETTINGS),
    "boil": Recipe(_boil, _sgd, settings=MAML_SETTINGS),
    "meta-sgd": Recipe(_maml, _meta_sgd, learns_rule=True, settings=MAML_SETTINGS | {"inner_lr": 0.1, "test_steps": 1}),
    "meta-curvature": Recipe(_maml, _meta_curvature, learns_rule=True, settings=MAML_SETTINGS | {"inner_lr": 0.1}),
    "maml++": Recipe(
        _maml_plus_plus,
        _step_rates,
        learns_rule=True,
        settings=MAML_SETTINGS | {"inner_lr": 0.1, "inner_steps": 5, "test_steps": 5, "multi_step": 1000},
    ),
    # Rajeswaran et al., 2019, appendix: 16 steps on Omniglot 5-way, 5 iterations of conjugate gradients
    "imaml": Recipe(
        _imaml,
        _sgd,
        settings=MAML_SETTINGS | {"inner_lr": 0.1, "inner_steps": 16, "test_steps": 16, "order": "implicit:5"},
    ),
    "cavia": Recipe(_cavia, _sgd, settings=MAML_SETTINGS | {"inner_lr": 1.0, "inner_steps": 2, "test_steps": 2}),
    "meta-lstm": Recipe(
        _maml,
        _meta_lstm,
        learns_rule=True,
        settings=MAML_SETTINGS | {"inner_steps": 5, "test_steps": 5, "order": "first"},
    ),
    "prototypical": Recipe(_prototypical, _sgd, settings=METRIC | {"train_way": 60, "train_query": 5}),
    "matching": Recipe(_matching, _sgd, settings=METRIC | {"train_way": 20, "train_query": 5, "num_episodes": 2}),
    "siamese": Recipe(_siamese, _sgd, settings=METRIC | {"train_way": 20, "train_query": 5, "num_episodes": 2}),
    "r2d2": Recipe(_ridge, _sgd, settings=METRIC | {"num_episodes": 4}),
    "metaoptnet": Recipe(_svm, _sgd, settings=METRIC | {"num_episodes": 4}),
    "relation": Recipe(_relation, _sgd, settings=METRIC | {"train_way": 10, "train_query": 10, "num_episodes": 2}),
}

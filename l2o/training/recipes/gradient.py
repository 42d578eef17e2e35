"""Learners that take gradient steps."""

from __future__ import annotations

import math

from l2o.learners.backbones import MLP, Conv4
from l2o.learners.base import Learner
from l2o.learners.gradient.cavia import CAVIA, FiLMConv4, FiLMMLP, WithContext
from l2o.learners.gradient.imaml import IMAML
from l2o.learners.gradient.maml import MAML
from l2o.learners.gradient.maml_plus_plus import MAMLPlusPlus, StepRates
from l2o.learners.gradient.meta_curvature import MetaCurvature
from l2o.learners.gradient.meta_lstm import MetaLSTMRule
from l2o.learners.gradient.meta_sgd import MetaSGD, shapes_of
from l2o.rules.base import UpdateRule, check
from l2o.training.recipes.base import Given, Recipe, sgd


def _maml(given: Given) -> Learner:
    return MAML(given.make(given.outputs))


def _anil(given: Given) -> Learner:
    return MAML(given.make(given.outputs), adapted=("head.",))


def _boil(given: Given) -> Learner:
    return MAML(given.make(given.outputs), frozen=("head.",))


def _maml_plus_plus(given: Given) -> Learner:
    network = given.make(given.outputs)
    if type(network) is MLP and given.classifies:  # it has no normalisation by itself
        network = MLP(network.config["sizes"], norm="batch")
    return MAMLPlusPlus(network, given.steps)


def _imaml(given: Given) -> Learner:
    return IMAML(given.make(given.outputs))


def _cavia(given: Given) -> Learner:
    network = given.make(given.outputs)
    if isinstance(network, Conv4):
        third = min(2, len(network.convs) - 1)  # of the authors' four blocks; networks of small pictures have fewer
        return CAVIA(FiLMConv4(network, block=third), num_context=100)
    if isinstance(network, MLP) and given.classifies:
        return CAVIA(FiLMMLP(network), num_context=100)
    size = 100 if given.classifies else 5  # as in the paper: classes take more to tell apart than curves
    return CAVIA(WithContext(given.make(given.outputs, context=size)), num_context=size)


def _meta_sgd(learner: Learner, lr: float) -> UpdateRule:
    return MetaSGD(shapes_of(learner), lr)


def _meta_curvature(learner: Learner, lr: float) -> UpdateRule:
    return MetaCurvature(shapes_of(learner), lr)


def _step_rates(learner: Learner, lr: float) -> UpdateRule:
    assert isinstance(learner, MAMLPlusPlus)
    return StepRates(shapes_of(learner), learner.num_steps, lr)


def _meta_lstm(learner: Learner, lr: float) -> UpdateRule:
    check(0.0 < lr < 1.0, "inner_lr must be between 0 and 1, since it is where an input gate starts", inner_lr=lr)
    bias = math.log(lr / (1.0 - lr))
    return MetaLSTMRule(input_bias=(bias - 0.5, bias + 0.5))


# Finn et al., 2017, appendix A.1: strided convolutions, 1 step in training and 3 in evaluation, meta-batches of 32
MAML_SETTINGS = {"inner_lr": 0.4, "inner_steps": 1, "test_steps": 3, "num_episodes": 32, "strided": True}

RECIPES: dict[str, Recipe] = {
    "maml": Recipe(_maml, sgd, settings=MAML_SETTINGS),
    "fomaml": Recipe(_maml, sgd, settings=MAML_SETTINGS | {"order": "first"}),
    # Nichol et al., 2018, table 6, but for SGD inside and Adam outside: the authors' Adam inside keeps its averages
    # from episode to episode, which an inner loop without memory does not; with fresh ones it does not learn
    "reptile": Recipe(
        _maml,
        sgd,
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
    "anil": Recipe(_anil, sgd, settings=MAML_SETTINGS),
    "boil": Recipe(_boil, sgd, settings=MAML_SETTINGS),
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
        sgd,
        settings=MAML_SETTINGS | {"inner_lr": 0.1, "inner_steps": 16, "test_steps": 16, "order": "implicit:5"},
    ),
    "cavia": Recipe(_cavia, sgd, settings=MAML_SETTINGS | {"inner_lr": 1.0, "inner_steps": 2, "test_steps": 2}),
    "meta-lstm": Recipe(
        _maml,
        _meta_lstm,
        learns_rule=True,
        settings=MAML_SETTINGS | {"inner_lr": 0.011, "inner_steps": 5, "test_steps": 5, "order": "first"},
    ),
}

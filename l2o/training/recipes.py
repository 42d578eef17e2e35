"""Named learners: how each is built from a network, and the settings that its paper trains it with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from l2o.learners.backbones import MLP, Conv4
from l2o.learners.base import Learner
from l2o.learners.black_box.answers import features_of
from l2o.learners.black_box.cnaps import CNAPs
from l2o.learners.black_box.hypernetwork import Hypernetwork
from l2o.learners.black_box.recurrent import RecurrentLearner
from l2o.learners.black_box.snail import SNAIL
from l2o.learners.gradient.cavia import CAVIA, FiLMConv4, WithContext
from l2o.learners.gradient.imaml import IMAML
from l2o.learners.gradient.maml import MAML
from l2o.learners.gradient.maml_plus_plus import MAMLPlusPlus, StepRates
from l2o.learners.gradient.meta_curvature import MetaCurvature
from l2o.learners.gradient.meta_lstm import MetaLSTMRule
from l2o.learners.gradient.meta_sgd import MetaSGD, shapes_of
from l2o.learners.memory.dnc import DNC
from l2o.learners.memory.learner import MemoryLearner, inputs_for
from l2o.learners.memory.mann import MANN
from l2o.learners.memory.ntm import NTM
from l2o.learners.metric.matching import MatchingNetwork
from l2o.learners.metric.prototypical import PrototypicalNetwork
from l2o.learners.metric.relation import RelationEncoder, RelationNetwork
from l2o.learners.metric.ridge import RidgeHead, SVMHead
from l2o.learners.metric.siamese import SiameseNetwork
from l2o.learners.neural_process.base import NeuralProcess
from l2o.learners.neural_process.conditional import (
    AttentiveNeuralProcess,
    ConditionalNeuralProcess,
    LatentNeuralProcess,
)
from l2o.learners.neural_process.convolutional import ConvolutionalNeuralProcess
from l2o.learners.neural_process.prior_fitted import PriorFittedNetwork
from l2o.learners.neural_process.transformer import TransformerNeuralProcess
from l2o.learners.neural_process.versa import VERSA
from l2o.rules.base import UpdateRule
from l2o.rules.hand_designed import SGD

Network = Callable[..., nn.Module]
"""Makes the usual network for a suite's inputs, with so many outputs (0: an embedding)."""


class Given(NamedTuple):
    """What a learner is made from.

    make: the network.
    outputs: of a network that answers by itself.
    way: classes of an episode; None where they vary.
    steps: of the inner rule.
    options: keywords that `make` has been given, for learners with a network of their own.
    inputs: numbers in an input, for learners that read it as it is; None where it is no vector.
    classifies: whether answers are labels.
    rows: of the largest support set.
    """

    make: Network
    outputs: int
    way: int | None
    steps: int
    options: Mapping[str, Any]
    inputs: int | None = None
    classifies: bool = True
    rows: int = 5


@dataclass(frozen=True)
class Recipe:
    """A learner by name.

    Arguments:
        learner: made from what is given.
        rule: from (the learner, inner rate), the inner rule; None for learners without steps of their own.
        classifies: whether it needs labels, and takes any number of classes in an episode.
        learns_rule: whether the rule's theta is trained too.
        estimator: episodic or reptile.
        settings: what it is trained with where nothing else is said; names are those of `LearnConfig`.
    """

    learner: Callable[[Given], Learner]
    rule: Callable[[Learner, float], UpdateRule] | None = None
    classifies: bool = False
    learns_rule: bool = False
    estimator: str = "episodic"
    settings: Mapping[str, Any] = field(default_factory=dict)


def _sgd(learner: Learner, lr: float) -> UpdateRule:
    return SGD(lr)


def _maml(given: Given) -> Learner:
    return MAML(given.make(given.outputs))


def _anil(given: Given) -> Learner:
    return MAML(given.make(given.outputs), adapted=("head.",))


def _boil(given: Given) -> Learner:
    return MAML(given.make(given.outputs), frozen=("head.",))


def _maml_plus_plus(given: Given) -> Learner:
    return MAMLPlusPlus(given.make(given.outputs), given.steps)


def _imaml(given: Given) -> Learner:
    return IMAML(given.make(given.outputs))


def _cavia(given: Given) -> Learner:
    network = given.make(given.outputs)
    if isinstance(network, Conv4):
        return CAVIA(FiLMConv4(network), num_context=100)
    return CAVIA(WithContext(given.make(given.outputs, context=5)), num_context=5)


def _meta_sgd(learner: Learner, lr: float) -> UpdateRule:
    return MetaSGD(shapes_of(learner), lr)


def _meta_curvature(learner: Learner, lr: float) -> UpdateRule:
    return MetaCurvature(shapes_of(learner), lr)


def _step_rates(learner: Learner, lr: float) -> UpdateRule:
    assert isinstance(learner, MAMLPlusPlus)
    return StepRates(shapes_of(learner), learner.num_steps, lr)


def _meta_lstm(learner: Learner, lr: float) -> UpdateRule:
    return MetaLSTMRule()


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
    """With the encoder and the relation module of the paper in place of the usual network."""
    chosen = {name: given.options[name] for name in ("width", "norm", "precision") if name in given.options}
    return RelationNetwork(RelationEncoder(**chosen), given.way, **chosen)


def _ntm(given: Given) -> Learner:
    encoder = given.make(0)
    core = NTM(inputs_for(_features(encoder), given.outputs), given.outputs, rows=64, width=40)
    return MemoryLearner(encoder, core)


def _dnc(given: Given) -> Learner:
    encoder = given.make(0)
    core = DNC(inputs_for(_features(encoder), given.outputs), given.outputs, rows=32, width=40)
    return MemoryLearner(encoder, core)


def _mann(given: Given) -> Learner:
    encoder = given.make(0)
    core = MANN(inputs_for(_features(encoder), given.outputs, late=True), given.outputs)
    return MemoryLearner(encoder, core, late=True)


def _features(encoder: nn.Module) -> int:
    return int(encoder.num_features)  # type: ignore[arg-type]


def _versa(given: Given) -> Learner:
    return VERSA(given.make(0), given.way)


def _process(given: Given, cls: Callable[..., NeuralProcess], **chosen: Any) -> Learner:
    """A neural process that reads inputs as they are, or what the usual network makes of pictures."""
    encoder = given.make(0) if given.inputs is None else None
    inputs = given.inputs or int(encoder.num_features)  # type: ignore[union-attr, arg-type]
    likelihood = "categorical" if given.classifies else "gaussian"
    return cls(inputs, given.outputs, likelihood=likelihood, encoder=encoder, **chosen)


def _convolutional(given: Given) -> Learner:
    if given.inputs != 1 or given.classifies:
        raise ValueError("convcnp learns numbers on a line, values of single inputs; these data are others.")
    return ConvolutionalNeuralProcess((-5.0, 5.0), outputs=given.outputs, min_scale=MIN_SCALE)


def _prior_fitted(given: Given) -> Learner:
    if given.inputs is None or not given.classifies:
        raise ValueError("pfn learns labels of the rows of tables; these data are others.")
    return PriorFittedNetwork(given.inputs, given.outputs)


# below the noise of the usual Gaussian processes, deviation .02; the papers' .1 would hide it
MIN_SCALE = 0.01
# Nguyen and Grover, 2022, appendix: Adam 5e-4 down to 0, 16 tasks
PROCESS = {"norm": "running", "num_episodes": 16, "inner_steps": 0, "lr": 5e-4}


def _reader(given: Given) -> nn.Module:
    """What embeds for learners that have many layers behind it: vectors go through a linear one."""
    network = given.make(0)
    return MLP((_inputs(network), network.num_features)) if isinstance(network, MLP) else network


def _inputs(network: MLP) -> int:
    return int(network.config["sizes"][0])


def _lstm(given: Given) -> Learner:
    return RecurrentLearner(_reader(given), given.outputs, "lstm")


def _gru(given: Given) -> Learner:
    return RecurrentLearner(_reader(given), given.outputs, "gru")


def _snail(given: Given) -> Learner:
    """With the sizes of the paper for images, and with small ones for vectors."""
    encoder = _reader(given)
    if isinstance(encoder, MLP):
        return SNAIL(encoder, given.outputs, given.rows + 1, filters=32, attention=((32, 32),) * 3)
    return SNAIL(encoder, given.outputs, given.rows + 1)


def _hypernetwork(given: Given, chunk: int | None = None) -> Learner:
    """A perceptron of one hidden layer is generated: of vectors, or of the embeddings of images."""
    encoder = _reader(given)
    embedded = not isinstance(encoder, MLP)
    inputs = _inputs(encoder) if isinstance(encoder, MLP) else features_of(encoder, None)
    target = MLP((inputs, 64, given.outputs))
    return Hypernetwork(target, encoder, given.outputs, embedded, hidden=(256,), chunk=chunk)


def _chunked(given: Given) -> Learner:
    return _hypernetwork(given, chunk=200)


def _cnaps(given: Given) -> Learner:
    """With a backbone that is trained along, because there is none that was trained before."""
    return CNAPs(given.make(0), given.make(0), given.way, frozen=False)


# Finn et al., 2017, appendix A.1: strided convolutions, 1 step in training and 3 in evaluation, meta-batches of 32
MAML_SETTINGS = {"inner_lr": 0.4, "inner_steps": 1, "test_steps": 3, "num_episodes": 32, "strided": True}
# Snell et al., 2017, section 3.1: more classes in training than in evaluation
METRIC = {"norm": "running", "num_episodes": 1, "inner_steps": 0}
# the memory's own adaptation; it has an output for each class, and learns in what order rows come
MEMORY = {"norm": "running", "inner_steps": 0}
# a support set is one sequence, and has an output for each class: few queries of many episodes
BLACK_BOX = {"norm": "running", "num_episodes": 16, "inner_steps": 0, "train_query": 3}

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
    "prototypical": Recipe(_prototypical, _sgd, classifies=True, settings=METRIC | {"train_way": 60, "train_query": 5}),
    "matching": Recipe(
        _matching, _sgd, classifies=True, settings=METRIC | {"train_way": 20, "train_query": 5, "num_episodes": 2}
    ),
    "siamese": Recipe(
        _siamese, _sgd, classifies=True, settings=METRIC | {"train_way": 20, "train_query": 5, "num_episodes": 2}
    ),
    "r2d2": Recipe(_ridge, _sgd, classifies=True, settings=METRIC | {"num_episodes": 4}),
    "metaoptnet": Recipe(_svm, _sgd, classifies=True, settings=METRIC | {"num_episodes": 4}),
    "relation": Recipe(
        _relation, _sgd, classifies=True, settings=METRIC | {"train_way": 10, "train_query": 10, "num_episodes": 2}
    ),
    "ntm": Recipe(_ntm, _sgd, settings=MEMORY),
    "dnc": Recipe(_dnc, _sgd, settings=MEMORY),
    "mann": Recipe(_mann, _sgd, settings=MEMORY),
    "cnp": Recipe(partial(_process, cls=ConditionalNeuralProcess, min_scale=MIN_SCALE), _sgd, settings=PROCESS),
    "np": Recipe(partial(_process, cls=LatentNeuralProcess, min_scale=MIN_SCALE), _sgd, settings=PROCESS),
    "canp": Recipe(
        partial(_process, cls=AttentiveNeuralProcess, latent=False, min_scale=MIN_SCALE), _sgd, settings=PROCESS
    ),
    "anp": Recipe(partial(_process, cls=AttentiveNeuralProcess, min_scale=MIN_SCALE), _sgd, settings=PROCESS),
    "tnp-d": Recipe(partial(_process, cls=TransformerNeuralProcess, min_scale=MIN_SCALE), _sgd, settings=PROCESS),
    "tnp-a": Recipe(
        partial(_process, cls=TransformerNeuralProcess, autoregressive=True, min_scale=MIN_SCALE),
        _sgd,
        settings=PROCESS,
    ),
    "convcnp": Recipe(_convolutional, _sgd, settings=PROCESS | {"lr": 1e-3}),
    "versa": Recipe(_versa, _sgd, classifies=True, settings=METRIC | {"num_episodes": 4}),
    "pfn": Recipe(_prior_fitted, _sgd, settings=PROCESS),
    "lstm": Recipe(_lstm, _sgd, settings=BLACK_BOX),
    "gru": Recipe(_gru, _sgd, settings=BLACK_BOX),
    "snail": Recipe(_snail, _sgd, settings=BLACK_BOX),
    "hypernetwork": Recipe(_hypernetwork, _sgd, settings=BLACK_BOX),
    "chunked-hypernetwork": Recipe(_chunked, _sgd, settings=BLACK_BOX),
    "cnaps": Recipe(_cnaps, _sgd, classifies=True, settings=METRIC | {"num_episodes": 4, "train_query": 5}),
}

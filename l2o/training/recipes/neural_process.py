"""Learners that predict distributions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from l2o.learners.answers import features_of
from l2o.learners.base import Learner
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
from l2o.training.recipes.base import FEED_FORWARD, Given, Recipe, sgd


def _versa(given: Given) -> Learner:
    return VERSA(given.make(0), given.way)


def _process(given: Given, cls: Callable[..., NeuralProcess], **chosen: Any) -> Learner:
    """A neural process that reads inputs as they are, or what the usual network makes of pictures."""
    encoder = given.make(0) if given.inputs is None else None
    inputs = given.inputs if encoder is None else features_of(encoder)
    likelihood = "categorical" if given.classifies else "gaussian"
    return cls(inputs, given.outputs, likelihood=likelihood, min_scale=MIN_SCALE, encoder=encoder, **chosen)


def _convolutional(given: Given) -> Learner:
    if given.inputs != 1 or given.classifies:
        raise ValueError("convcnp learns numbers on a line, values of single inputs; these data are others.")
    return ConvolutionalNeuralProcess((-5.0, 5.0), outputs=given.outputs, min_scale=MIN_SCALE)


def _prior_fitted(given: Given) -> Learner:
    if given.inputs is None or not given.classifies:
        raise ValueError("pfn learns labels of the rows of tables; these data are others.")
    return PriorFittedNetwork(given.inputs, given.outputs)


# least deviation: below that of the noise of the usual Gaussian processes, .02, which the papers' .1 would hide
MIN_SCALE = 0.01
# Nguyen and Grover, 2022, appendix: Adam 5e-4 down to 0, 16 tasks
PROCESS = FEED_FORWARD | {"num_episodes": 16, "lr": 5e-4}

RECIPES: dict[str, Recipe] = {
    "cnp": Recipe(partial(_process, cls=ConditionalNeuralProcess), sgd, settings=PROCESS),
    "np": Recipe(partial(_process, cls=LatentNeuralProcess), sgd, settings=PROCESS),
    "canp": Recipe(partial(_process, cls=AttentiveNeuralProcess, latent=False), sgd, settings=PROCESS),
    "anp": Recipe(partial(_process, cls=AttentiveNeuralProcess), sgd, settings=PROCESS),
    "tnp-d": Recipe(partial(_process, cls=TransformerNeuralProcess), sgd, settings=PROCESS),
    "tnp-a": Recipe(
        partial(_process, cls=TransformerNeuralProcess, autoregressive=True),
        sgd,
        settings=PROCESS,
    ),
    "convcnp": Recipe(_convolutional, sgd, settings=PROCESS | {"lr": 1e-3}),
    "versa": Recipe(_versa, sgd, classifies=True, settings=FEED_FORWARD | {"num_episodes": 4}),
    "pfn": Recipe(_prior_fitted, sgd, settings=PROCESS),
}

"""Fully connected classifiers, from logistic regression up (Andrychowicz et al., 2016, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Generator, Tensor

from l2o.tasks.base import TaskFamily
from l2o.tasks.data import Dataset, digits
from l2o.tasks.nets import GAIN, Activation, apply_mlp, init_mlp
from l2o.tasks.supervised import Classifier, OnDataset, draw_structure, log_uniform
from l2o.types import Params


@dataclass(frozen=True)
class MLPClassification(Classifier, OnDataset):
    """A multilayer perceptron that classifies; without hidden layers, logistic regression.

    Arguments:
        data, batch_size: see `OnDataset`.
        hidden: width of each hidden layer.
        activation: nonlinearity.
        init_scale: factor on all initial weights; as a tensor it may differ between tasks that run in one batch.
    """

    hidden: tuple[int, ...] = (32,)
    activation: Activation = "relu"
    init_scale: float | Float[Tensor, ""] = 1.0

    def init(self, generator: Generator) -> Params:
        sizes = (self.data.num_features, *self.hidden, self.data.num_classes)
        return init_mlp(generator, sizes, gain=GAIN[self.activation] * self.init_scale)

    def logits(self, params: Params, x: Float[Tensor, " batch *features"]) -> Float[Tensor, "batch classes"]:
        return apply_mlp(params, x.flatten(1), self.activation)


@dataclass(frozen=True)
class MLPFamily(TaskFamily):
    """Random perceptrons on random data sets. Every tuple of options is a structural choice that `fix` makes.

    Arguments:
        hidden: widths; all hidden layers of a network have the same.
        depth: numbers of hidden layers.
        activation: nonlinearities.
        batch_size: sizes of a batch.
        init_scale: range of the log-uniform factor on initial weights, drawn for each task.
        sources: data sets (see `Dataset.split` for a part of one).
    """

    hidden: tuple[int, ...] = (32,)
    depth: tuple[int, ...] = (1,)
    activation: tuple[Activation, ...] = ("relu",)
    batch_size: tuple[int, ...] = (64,)
    init_scale: tuple[float, float] = (1.0, 1.0)
    sources: tuple[Dataset, ...] = field(default_factory=lambda: (digits(),))

    def fix(self, generator: Generator) -> MLPFamily:
        return draw_structure(self, generator, "hidden", "depth", "activation", "batch_size", "sources")

    def sample(self, generator: Generator) -> MLPClassification:
        fixed = self.fix(generator)
        return MLPClassification(
            data=fixed.sources[0],
            batch_size=fixed.batch_size[0],
            hidden=fixed.hidden * fixed.depth[0],
            activation=fixed.activation[0],
            init_scale=log_uniform(self.init_scale, generator),
        )

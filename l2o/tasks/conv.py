"""Small convolutional classifiers (Metz et al., 2019, https://arxiv.org/abs/1810.10180)."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.tasks.base import TaskFamily
from l2o.tasks.data import Dataset, digits
from l2o.tasks.nets import GAIN, Activation, activate, init_mlp, init_weight
from l2o.tasks.supervised import Classifier, OnDataset, draw_structure, log_uniform
from l2o.types import Params


@dataclass(frozen=True)
class ConvClassification(Classifier, OnDataset):
    """3x3 convolutions, all but the first with stride 2, mean over the image, one linear layer. No normalisation.

    Arguments:
        data, batch_size: see `OnDataset`; inputs are images.
        channels: channels of each convolution.
        activation: nonlinearity.
        init_scale: factor on all initial weights.
    """

    channels: tuple[int, ...] = (8, 16)
    activation: Activation = "relu"
    init_scale: float | Float[Tensor, ""] = 1.0

    def init(self, generator: Generator) -> Params:
        gain, sizes, params = GAIN[self.activation] * self.init_scale, (self.data.shape[0], *self.channels), {}
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            params[f"conv{i}.weight"] = init_weight(generator, outputs, inputs, 3, 3, gain=gain)
            params[f"conv{i}.bias"] = params[f"conv{i}.weight"].new_zeros(outputs)
        return params | init_mlp(generator, (sizes[-1], self.data.num_classes), gain, prefix="head")

    def logits(self, params: Params, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        for i in range(len(self.channels)):
            stride = 1 if i == 0 else 2
            x = F.conv2d(x, params[f"conv{i}.weight"], params[f"conv{i}.bias"], stride=stride, padding=1)
            x = activate(self.activation, x)
        return F.linear(x.mean(dim=(-2, -1)), params["head0.weight"], params["head0.bias"])


@dataclass(frozen=True)
class ConvFamily(TaskFamily):
    """Random convolutional classifiers on random image sets. Every tuple of options is a structural choice.

    Arguments:
        channels: channels of the first convolution; each further one has twice as many.
        depth: numbers of convolutions.
        activation: nonlinearities.
        batch_size: sizes of a batch.
        init_scale: range of the log-uniform factor on initial weights, drawn for each task.
        sources: image sets.
    """

    channels: tuple[int, ...] = (8,)
    depth: tuple[int, ...] = (2,)
    activation: tuple[Activation, ...] = ("relu",)
    batch_size: tuple[int, ...] = (64,)
    init_scale: tuple[float, float] = (1.0, 1.0)
    sources: tuple[Dataset, ...] = field(default_factory=lambda: (digits(),))

    def __post_init__(self) -> None:
        for source in self.sources:
            if len(source.shape) != 3:
                raise ValueError(
                    f"convolutions need images (channels, height, width); inputs of {source!r} are {source.shape}."
                )

    def fix(self, generator: Generator) -> ConvFamily:
        return draw_structure(self, generator, "channels", "depth", "activation", "batch_size", "sources")

    def sample(self, generator: Generator) -> ConvClassification:
        fixed = self.fix(generator)
        return ConvClassification(
            data=fixed.sources[0],
            batch_size=fixed.batch_size[0],
            channels=tuple(fixed.channels[0] * 2**i for i in range(fixed.depth[0])),
            activation=fixed.activation[0],
            init_scale=log_uniform(self.init_scale, generator),
        )

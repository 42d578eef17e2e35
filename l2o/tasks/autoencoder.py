"""Autoencoders (Hinton and Salakhutdinov, 2006) and variational autoencoders (Kingma and Welling, 2014)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.tasks.base import TaskFamily
from l2o.tasks.data import Dataset, digits
from l2o.tasks.nets import GAIN, Activation, apply_mlp, init_mlp
from l2o.tasks.supervised import OnDataset, draw_structure, log_uniform
from l2o.types import Batch, Params


@dataclass(frozen=True)
class Autoencoder(OnDataset):
    """Rebuilds its input through a narrow layer; loss is the mean squared error of a number.

    Arguments:
        data, batch_size: see `OnDataset`; labels are not used.
        hidden: width of each hidden layer of the encoder; the decoder mirrors them.
        latent: width of the narrow layer.
        activation: nonlinearity.
        init_scale: factor on all initial weights.
    """

    hidden: tuple[int, ...] = (32,)
    latent: int = 8
    activation: Activation = "relu"
    init_scale: float | Float[Tensor, ""] = 1.0

    def init(self, generator: Generator) -> Params:
        return _init_pair(self, self.latent, generator)

    def loss(self, params: Params, batch: Batch) -> Float[Tensor, ""]:
        x = batch[0].flatten(1)
        code = apply_mlp(params, x, self.activation, "encoder")
        return (apply_mlp(params, code, self.activation, "decoder") - x).square().mean()


@dataclass(frozen=True)
class VariationalAutoencoder(OnDataset):
    """Bernoulli pixels, a normal latent; loss is the negative evidence lower bound in nats a pixel.

    A batch is (images in [0, 1], noise): the noise of the latent is drawn with the batch, so that the loss is pure.

    Arguments:
        data, batch_size, hidden, latent, activation, init_scale: see `Autoencoder`.
    """

    hidden: tuple[int, ...] = (32,)
    latent: int = 8
    activation: Activation = "relu"
    init_scale: float | Float[Tensor, ""] = 1.0

    def init(self, generator: Generator) -> Params:
        return _init_pair(self, 2 * self.latent, generator)

    def sample_batch(self, generator: Generator) -> Batch:
        return self._with_noise(super().sample_batch(generator), generator)

    def sample_batches(self, generator: Generator, num: int) -> Batch:
        return self._with_noise(super().sample_batches(generator, num), generator)

    def sample_validation_batch(self, generator: Generator) -> Batch:
        return self._with_noise(super().sample_validation_batch(generator), generator)

    def _with_noise(self, batch: Batch, generator: Generator) -> Batch:
        x, y = batch
        return x, torch.randn(*y.shape, self.latent, generator=generator)

    def loss(self, params: Params, batch: Batch) -> Float[Tensor, ""]:
        x, noise = batch[0].flatten(1), batch[1]
        mean, log_variance = apply_mlp(params, x, self.activation, "encoder").chunk(2, dim=-1)
        latent = mean + torch.exp(0.5 * log_variance) * noise
        logits = apply_mlp(params, latent, self.activation, "decoder")
        reconstruction = (F.softplus(logits) - x * logits).sum(dim=-1)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=-1)
        return (reconstruction + divergence).mean() / x.shape[-1]


def _init_pair(task: Autoencoder | VariationalAutoencoder, code: int, generator: Generator) -> Params:
    """Parameters of an encoder to `code` numbers and of the decoder from the latent."""
    gain, pixels = GAIN[task.activation] * task.init_scale, task.data.num_features
    encoder = init_mlp(generator, (pixels, *task.hidden, code), gain, prefix="encoder")
    return encoder | init_mlp(generator, (task.latent, *task.hidden[::-1], pixels), gain, prefix="decoder")


@dataclass(frozen=True)
class AutoencoderFamily(TaskFamily):
    """Random autoencoders. Every tuple of options is a structural choice that `fix` makes.

    Arguments:
        variational: False for autoencoders, True for variational ones, both for either.
        hidden: widths; all hidden layers of a network have the same.
        depth: numbers of hidden layers of the encoder.
        latent: widths of the narrow layer.
        activation: nonlinearities.
        batch_size: sizes of a batch.
        init_scale: range of the log-uniform factor on initial weights, drawn for each task.
        sources: image sets.
    """

    variational: tuple[bool, ...] = (False,)
    hidden: tuple[int, ...] = (32,)
    depth: tuple[int, ...] = (1,)
    latent: tuple[int, ...] = (8,)
    activation: tuple[Activation, ...] = ("relu",)
    batch_size: tuple[int, ...] = (64,)
    init_scale: tuple[float, float] = (1.0, 1.0)
    sources: tuple[Dataset, ...] = field(default_factory=lambda: (digits(),))

    def __post_init__(self) -> None:
        for source in self.sources:
            if any(self.variational) and len(source.shape) != 3:
                raise ValueError(
                    "variational autoencoders need images with pixels in [0, 1], because pixels are Bernoulli; "
                    f"inputs of {source!r} are {source.shape}."
                )

    def fix(self, generator: Generator) -> AutoencoderFamily:
        names = ("variational", "hidden", "depth", "latent", "activation", "batch_size", "sources")
        return draw_structure(self, generator, *names)

    def sample(self, generator: Generator) -> Autoencoder | VariationalAutoencoder:
        fixed = self.fix(generator)
        build = VariationalAutoencoder if fixed.variational[0] else Autoencoder
        return build(
            data=fixed.sources[0],
            batch_size=fixed.batch_size[0],
            hidden=fixed.hidden * fixed.depth[0],
            latent=fixed.latent[0],
            activation=fixed.activation[0],
            init_scale=log_uniform(self.init_scale, generator),
        )

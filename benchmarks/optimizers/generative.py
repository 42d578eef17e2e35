"""Models of images: an autoencoder, a variational one, a denoiser, and a network that is one image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from benchmarks.optimizers.problem import Batch, Problem, perceptron, some
from benchmarks.optimizers.vision import alphabets
from l2o.tasks.data import Part, fashion_mnist, mnist
from l2o.types import seeded


@dataclass(frozen=True)
class Autoencoder(Problem):
    """A deep autoencoder of MNIST, 784-256-64-16-64-256-784, cross-entropy of pixels (Hinton & Salakhutdinov, 2006)."""

    sizes: tuple[int, ...] = (784, 256, 64, 16, 64, 256, 784)

    def model(self) -> nn.Module:
        return perceptron(self.sizes)

    def draw(self, generator: Generator) -> Batch:
        return (mnist(28).train.draw(generator, self.batch_size)[0].flatten(1),)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        (x,) = batch
        return F.binary_cross_entropy_with_logits(model(x), x)

    def held_out(self) -> list[Batch]:
        return [(x.flatten(1),) for x, _ in some(mnist(28).validation)]


class VariationalNetwork(nn.Module):
    """An encoder to mean and log-variance, a decoder to logits of pixels (Kingma & Welling, 2014)."""

    def __init__(self, hidden: int, latent: int, pixels: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU())
        self.encoder_head = nn.Linear(hidden, 2 * latent)
        self.decoder = perceptron((latent, hidden, hidden, pixels))

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder_head(self.encoder(x)).chunk(2, dim=-1)
        return self.decoder(mean + (0.5 * log_variance).exp() * noise), mean, log_variance


@dataclass(frozen=True)
class VAE(Problem):
    """A variational autoencoder of Omniglot at 28x28; minus the evidence bound in nats."""

    hidden: int = 256
    latent: int = 16

    def model(self) -> nn.Module:
        return VariationalNetwork(self.hidden, self.latent, 784)

    def draw(self, generator: Generator) -> Batch:
        x, _ = alphabets(28).train.draw(generator, self.batch_size)
        return x.flatten(1), torch.randn(len(x), self.latent, generator=generator)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        x, noise = batch
        logits, mean, log_variance = model(x, noise)
        likelihood = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(dim=-1)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=-1)
        return (likelihood + divergence).mean()

    def held_out(self) -> list[Batch]:
        generator = seeded(1)
        images = [x.flatten(1) for x, _ in some(alphabets(28).validation)]
        return [(x, torch.randn(len(x), self.latent, generator=generator)) for x in images]


class DenoisingNetwork(nn.Module):
    """Four convolutions, the level of noise added to every channel in the middle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.level = nn.Linear(8, channels)
        self.down = nn.Conv2d(channels, 2 * channels, 3, 2, padding=1)
        self.middle = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, 2)
        self.norm = nn.GroupNorm(4, 2 * channels)
        self.head = nn.Conv2d(2 * channels, 1, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        waves = time[:, None] * math.pi * 2.0 ** torch.arange(4)
        first = F.silu(self.first(x) + self.level(torch.cat([waves.sin(), waves.cos()], dim=-1))[:, :, None, None])
        middle = F.silu(self.middle(F.silu(self.norm(self.down(first)))))
        return self.head(torch.cat([first, F.silu(self.up(middle))], dim=1))


@dataclass(frozen=True)
class Diffusion(Problem):
    """A small denoiser of Fashion-MNIST at 14x14: which noise was added, at a random level? (Ho et al., 2020)"""

    batch_size: int = 32
    channels: int = 16

    def model(self) -> nn.Module:
        return DenoisingNetwork(self.channels)

    def draw(self, generator: Generator) -> Batch:
        return _noised(fashion_mnist(14).train.draw(generator, self.batch_size)[0], generator)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        x, noise, time = batch
        angle = 0.5 * math.pi * time[:, None, None, None]  # the cosine schedule of Nichol & Dhariwal (2021)
        return F.mse_loss(model(angle.cos() * x + angle.sin() * noise, time), noise)

    def held_out(self) -> list[Batch]:
        return [_noised(x, seeded(i)) for i, (x, _) in enumerate(some(fashion_mnist(14).validation))]


def _noised(x: Tensor, generator: Generator) -> Batch:
    return 2 * x - 1, torch.randn(x.shape, generator=generator), torch.rand(len(x), generator=generator)


class Sine(nn.Module):
    """sin(30 (W x + b)), its weights drawn as section 3.2 of SIREN says (Sitzmann et al., 2020)."""

    def __init__(self, fan_in: int, fan_out: int, first: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(fan_in, fan_out)
        bound = 1 / fan_in if first else math.sqrt(6 / fan_in) / 30
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * self.linear(x))


@dataclass(frozen=True)
class Siren(Problem):
    """A sinusoidal network that maps pixels of a photograph to their colour; a tenth of the pixels is held out."""

    batch_size: int = 512
    width: int = 96
    depth: int = 3

    def model(self) -> nn.Module:
        layers = [Sine(2, self.width, first=True), *(Sine(self.width, self.width) for _ in range(self.depth - 1))]
        model = nn.Sequential(*layers)
        model.add_module("head", nn.Linear(self.width, 3))
        return model

    def draw(self, generator: Generator) -> Batch:
        train, _, colours = photograph()
        x, pixel = train.draw(generator, self.batch_size)
        return x, colours[pixel]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        x, colour = batch
        return F.mse_loss(model(x), colour)

    def held_out(self) -> list[Batch]:
        _, validation, colours = photograph()
        return [(x, colours[pixel]) for x, pixel in some(validation)]


@lru_cache
def photograph(shrink: int = 4) -> tuple[Part, Part, Tensor]:
    """Pixels of scikit-learn's picture of China, their places in [-1, 1]^2 and numbers, every tenth apart; colours."""
    from sklearn.datasets import load_sample_image

    image = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1).float() / 127.5 - 1
    image = F.avg_pool2d(image, shrink)
    down, right = (torch.linspace(-1, 1, size) for size in image.shape[1:])
    places = torch.stack(torch.meshgrid(down, right, indexing="ij"), dim=-1).flatten(0, 1)
    pixel = torch.arange(len(places))
    train, apart = pixel[pixel % 10 != 0], pixel[pixel % 10 == 0]
    return Part(places[train], train), Part(places[apart], apart), image.flatten(1).T.contiguous()

"""Images: a convolutional, a residual, a transformer, a mixer network, and a wide perceptron."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from benchmarks.optimizers.problem import Batch, Classification, perceptron
from l2o.tasks.data import Dataset, Part, fashion_mnist, loader, mnist, omniglot_characters


@dataclass(frozen=True)
class ConvNet(Classification):
    """Two convolutions with pooling and a hidden layer, on Fashion-MNIST at 14x14."""

    channels: int = 16

    def data(self) -> Dataset:
        return fashion_mnist(14)

    def model(self) -> nn.Module:
        c = self.channels
        layers = [nn.Conv2d(1, c, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(c, 2 * c, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        return nn.Sequential(*layers, perceptron((2 * c * 9, 64, 10)))


class Block(nn.Module):
    """Two convolutions with batch normalisation around a shortcut (He et al., 2016)."""

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(fan_out)
        self.shortcut = nn.Conv2d(fan_in, fan_out, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(z + self.shortcut(x))


class ResidualNetwork(nn.Module):
    """A stem, three blocks of which two halve the image, the mean over pixels."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
        widths = ((channels, channels, 1), (channels, 2 * channels, 2), (2 * channels, 4 * channels, 2))
        self.blocks = nn.Sequential(*(Block(*width) for width in widths))
        self.head = nn.Linear(4 * channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean(dim=(-2, -1)))


@loader
def alphabets(size: int = 14) -> Dataset:
    """Of which of the 30 alphabets of Omniglot's background is a drawing? 17 people train, 3 validate."""
    characters = omniglot_characters("background", size)
    label = characters.alphabet[:, None].expand(characters.images.shape[:2])
    images = characters.images.unsqueeze(2)
    parts = [Part(images[:, s].flatten(0, 1), label[:, s].flatten()) for s in (slice(0, 17), slice(17, 20))]
    return Dataset("alphabets", *parts, len(characters.alphabet_names))


@dataclass(frozen=True)
class ResNet(Classification):
    """A residual network with batch normalisation, on the alphabets of Omniglot at 14x14."""

    batch_size: int = 32
    channels: int = 12

    def data(self) -> Dataset:
        return alphabets(14)

    def model(self) -> nn.Module:
        return ResidualNetwork(self.channels, self.data().num_classes)


class VisionTransformer(nn.Module):
    """Patches as words, a class token, layers normalised before (Dosovitskiy et al., 2021)."""

    def __init__(self, width: int, depth: int, patch: int = 7, size: int = 28) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, patch, patch)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2 + 1, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        z = self.embed(x).flatten(2).mT
        z = torch.cat([self.token.expand(len(z), -1, -1), z], dim=1) + self.position
        return self.head(self.layers(z)[:, 0])


@dataclass(frozen=True)
class ViT(Classification):
    """A small vision transformer on Fashion-MNIST in patches of 7x7."""

    batch_size: int = 32
    width: int = 64
    depth: int = 2

    def data(self) -> Dataset:
        return fashion_mnist(28)

    def model(self) -> nn.Module:
        return VisionTransformer(self.width, self.depth)


class MixerBlock(nn.Module):
    """A perceptron over patches, then one over channels (Tolstikhin et al., 2021)."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).mT).mT
        return x + self.channels(self.norm2(x))


class MixerNetwork(nn.Module):
    """Patches, blocks, the mean over patches."""

    def __init__(self, width: int, depth: int, num_classes: int, patch: int, size: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, patch, patch)
        self.blocks = nn.Sequential(*(MixerBlock((size // patch) ** 2, width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x).flatten(2).mT)).mean(dim=1))


@dataclass(frozen=True)
class Mixer(Classification):
    """An MLP-Mixer on the alphabets of Omniglot in patches of 7x7."""

    batch_size: int = 32
    width: int = 64
    depth: int = 3

    def data(self) -> Dataset:
        return alphabets(28)

    def model(self) -> nn.Module:
        return MixerNetwork(self.width, self.depth, self.data().num_classes, 7, 28)


@dataclass(frozen=True)
class WideMLP(Classification):
    """Three hidden layers of 1024 on MNIST, each image moved by up to two pixels."""

    width: int = 1024

    def data(self) -> Dataset:
        return mnist(28)

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), perceptron((784, self.width, self.width, self.width, 10)))

    def draw(self, generator: Generator) -> Batch:
        x, y = super().draw(generator)
        return moved(x, generator), y


def moved(x: Tensor, generator: Generator, pixels: int = 2) -> Tensor:
    """Each image moved by up to so many pixels in both directions."""
    padded = F.pad(x.squeeze(1), [pixels] * 4)
    size, one = x.shape[-1], torch.arange(x.shape[-1])
    down, right = torch.randint(2 * pixels + 1, (2, len(x), 1), generator=generator)
    rows, columns = (down + one)[:, :, None], (right + one)[:, None, :]
    assert padded.shape[-1] == size + 2 * pixels
    return padded[torch.arange(len(x))[:, None, None], rows, columns].unsqueeze(1)

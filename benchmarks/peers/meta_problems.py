"""Episodes and networks that all systems of `benchmarks/meta_step.py` share: torch only."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Batch(NamedTuple):
    """Support inputs and targets, query inputs and targets; the first axis is the task."""

    x: Tensor
    y: Tensor
    x_query: Tensor
    y_query: Tensor


def sinusoids(num_tasks: int, shot: int, query: int, seed: int = 0) -> Batch:
    """Amplitude U[0.1, 5], phase U[0, pi], x U[-5, 5] (Finn et al., 2017, section 5.1)."""
    generator = torch.Generator().manual_seed(seed)
    amplitude = 0.1 + 4.9 * torch.rand(num_tasks, 1, 1, generator=generator)
    phase = math.pi * torch.rand(num_tasks, 1, 1, generator=generator)
    x = 10 * torch.rand(num_tasks, shot + query, 1, generator=generator) - 5
    y = amplitude * torch.sin(x - phase)
    return Batch(x[:, :shot], y[:, :shot], x[:, shot:], y[:, shot:])


def images(num_tasks: int, way: int, shot: int, query: int, seed: int = 0) -> Batch:
    """28x28 images: a random one for each class, and noise of half its size."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randn(num_tasks, 1, way, 1, 28, 28, generator=generator)
    x = classes + 0.5 * torch.randn(num_tasks, shot + query, way, 1, 28, 28, generator=generator)
    y = torch.arange(way).expand(num_tasks, shot + query, way)

    def part(of: Tensor, rows: slice) -> Tensor:
        return of[:, rows].flatten(1, 2).contiguous()

    first, rest = slice(0, shot), slice(shot, None)
    return Batch(part(x, first), part(y, first), part(x, rest), part(y, rest))


def sinusoid_network() -> nn.Sequential:
    """1-40-40-1, relu."""
    return nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))


def conv4(outputs: int, width: int = 64) -> nn.Sequential:
    """Four blocks of convolution, batch normalisation by the batch at hand, relu, pooling; a head if outputs > 0."""
    layers: list[nn.Module] = []
    for channels in (1, width, width, width):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width, track_running_stats=False)]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), *([nn.Linear(width, outputs)] if outputs else []))

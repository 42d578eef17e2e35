"""Sinusoids of random amplitude and phase (Finn et al., 2017, https://arxiv.org/abs/1703.03400, section 5.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator

from l2o.tasks.episodes import Episode, EpisodeFamily, Examples


@dataclass(frozen=True)
class Sinusoid(EpisodeFamily):
    """Regression of y = a sin(x - b), a from U[0.1, 5], b from U[0, pi], x from U[-5, 5].

    Arguments:
        shot: support points.
        query: query points.
    """

    shot: int = 10
    query: int = 10

    def sample(self, generator: Generator) -> Episode:
        many = self.sample_many(generator, 1)
        return Episode(*(Examples(part.x[0], part.y[0]) for part in many))

    def sample_many(self, generator: Generator, num: int) -> Episode:
        amplitude = 0.1 + 4.9 * torch.rand(num, 1, 1, generator=generator)
        phase = math.pi * torch.rand(num, 1, 1, generator=generator)
        x = 10 * torch.rand(num, self.shot + self.query, 1, generator=generator) - 5
        y = amplitude * torch.sin(x - phase)
        return Episode(Examples(x[:, : self.shot], y[:, : self.shot]), Examples(x[:, self.shot :], y[:, self.shot :]))

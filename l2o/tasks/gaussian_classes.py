"""Gaussian classes: a few-shot problem whose best possible accuracy is known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.tasks.episodes import Episode, EpisodeFamily, Examples


@dataclass(frozen=True)
class GaussianClasses(EpisodeFamily):
    """Class means from N(0, I), examples from N(mean, spread^2 I).

    Arguments:
        dim: numbers in an input.
        spread: deviation of examples from their class's mean.
        way, shot, query: as of `FewShot`.
    """

    dim: int = 16
    spread: float = 1.0
    way: int = 5
    shot: int = 1
    query: int = 15

    def sample(self, generator: Generator) -> Episode:
        many = self.sample_many(generator, 1)
        return Episode(*(Examples(part.x[0], part.y[0]) for part in many))

    def sample_many(self, generator: Generator, num: int) -> Episode:
        means = torch.randn(num, 1, self.way, self.dim, generator=generator)
        noise = torch.randn(num, self.shot + self.query, self.way, self.dim, generator=generator)
        x = means + self.spread * noise
        labels = torch.arange(self.way).repeat(self.shot + self.query).expand(num, -1)
        at = self.shot * self.way
        x = x.flatten(1, 2)
        return Episode(Examples(x[:, :at], labels[:, :at]), Examples(x[:, at:], labels[:, at:]))

    def bayes(self, episode: Episode) -> Float[Tensor, "queries way"]:
        """The logarithm of each query's class probabilities, exact but for a constant: no learner can do better.

        A class's mean given its examples is normal, with mean shot / (shot + spread^2) times theirs and variance
        spread^2 / (shot + spread^2) in every direction.
        """
        members = (episode.support.y.unsqueeze(-1) == torch.arange(self.way)).to(episode.support.x.dtype)
        shrunk = members.T @ episode.support.x / (self.shot + self.spread**2)
        variance = self.spread**2 * (1 + 1 / (self.shot + self.spread**2))
        return -(episode.query.x.unsqueeze(1) - shrunk).square().sum(-1) / (2 * variance)

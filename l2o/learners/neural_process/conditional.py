"""Conditional, latent and attentive neural processes: a context's paths to a decoder.

CNP: Garnelo et al., 2018 (https://arxiv.org/abs/1807.01613); NP: Garnelo et al., 2018 (https://arxiv.org/abs/1807.01622);
ANP: Kim et al., 2019 (https://arxiv.org/abs/1901.05761).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from l2o.learners.backbones import MLP
from l2o.learners.base import Fast, Outcome
from l2o.learners.neural_process.classwise import ClasswiseProcess
from l2o.learners.neural_process.paths import (
    AttentionPath,
    LatentPath,
    MeanPath,
    divergence,
    noise,
    samples,
    seeds,
)
from l2o.tasks.episodes import Examples


class PathProcess(ClasswiseProcess):
    """Decodes what a deterministic path says at each target, and a latent variable where there is one.

    With a latent, predictions are mixtures over `num_samples` draws of it, always by the same normal numbers. In
    training the query loss is then the negative evidence lower bound per target,

        (KL(q(z | context, targets) | q(z | context)) - E log p(targets | z)) / targets

    by `train_samples` draws, whose normal numbers are a function of the episode; in evaluation it is the mixture's
    negative log-likelihood, each target by itself, as for all others. Of labels there is one latent for all classes,
    of the points as each of them sees them.

    Arguments:
        width, depth: units and layers of encoders and the decoder.
        heads: of the attention by which a target reads the context; 0 for the context's mean.
        latent: whether there is a latent variable.
        num_samples, train_samples: draws of the latent.
        inputs, outputs, likelihood, min_scale, encoder: see `NeuralProcess`.

    Attributes:
        fixed_scale: deviation of values in place of the decoder's while it is not None: latent processes that may
            choose it from the first step on explain everything by noise (Le et al., 2018).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int,
        depth: int,
        heads: int,
        latent: bool,
        num_samples: int,
        train_samples: int,
        likelihood: str,
        min_scale: float,
        encoder: nn.Module | None,
    ) -> None:
        super().__init__(inputs, outputs, likelihood, min_scale, encoder)
        if num_samples < 1 or train_samples < 1:
            raise ValueError(f"there must be a draw of the latent; got {num_samples}, in training {train_samples}.")
        sizes = (inputs, self.num_answers, width, depth)
        self.path = AttentionPath(*sizes, heads, self.axes) if heads else MeanPath(*sizes)
        self.latent = LatentPath(*sizes) if latent else None
        self.width, self.num_samples, self.train_samples = width, num_samples, train_samples
        read = inputs + width + (width if latent else 0)
        self.decoder = MLP([read, *[width] * (depth - 1), self.num_numbers])
        self.fixed_scale: float | None = None

    @property
    def mixes(self) -> bool:
        return self.latent is not None and not self.classifies

    def deviation(self, raw: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return super().deviation(raw) if self.fixed_scale is None else torch.full_like(raw, self.fixed_scale)

    def start(self, support: Examples) -> Fast:
        x, y = self.told(support)
        return self.path.start(x, y) | ({} if self.latent is None else self.latent.start(*self._pooled(x, y)))

    def predict(self, fast: Fast, x: Shaped[Tensor, "*n"]) -> Float[Tensor, "*m"]:
        z = self.asked(x)
        if self.latent is None:
            return self.shaped(self.decoder(torch.cat([z, self.path.at(fast, z)], dim=-1)))
        same = noise(torch.zeros((), dtype=torch.int64, device=z.device), (self.num_samples, self.width), z)
        drawn = self.shaped(self._decoded(fast, z, samples(self.latent.prior(fast), same)), samples=True)
        if self.classifies:
            return torch.log_softmax(drawn, dim=-1).logsumexp(-3) - math.log(self.num_samples)
        return drawn.movedim(-4, -3)

    def query_loss(
        self, fast: Fast, query: Examples, prediction: Float[Tensor, "*n"] | None = None
    ) -> Float[Tensor, "*b"]:
        if self.latent is None or not self.training:
            return super().query_loss(fast, query, prediction)
        x, y = self.told(query)
        posterior = self.latent.posterior(fast, *self._pooled(x, y))
        drawn = noise(seeds(query, x.ndim - self.axes), (self.train_samples, self.width), x)
        numbers = self.shaped(self._decoded(fast, x, samples(posterior, drawn)), samples=True)
        if self.classifies:
            each = self.log_prob(numbers, query.y.unsqueeze(-2))
        else:
            each = self.normal_log_prob(numbers, query.y.unsqueeze(-3))
        return divergence(posterior, self.latent.prior(fast)) / x.shape[-2] - each.mean((-2, -1))

    def judged(self, fast: Fast, query: Examples, step: int) -> Outcome:
        if self.latent is None or not self.training or self.classifies:
            return super().judged(fast, query, step)
        loss = self.query_loss(fast, query)  # which needs no prediction
        return Outcome(loss, loss.detach())

    def _decoded(
        self, fast: Fast, x: Float[Tensor, "*c m inputs"], latents: Float[Tensor, "*b num width"]
    ) -> Float[Tensor, "*c num m numbers"]:
        """The decoder's output at every input, for every draw of the latent."""
        here = torch.cat([x, self.path.at(fast, x)], dim=-1).unsqueeze(-3)
        latents = latents.unsqueeze(-3) if self.classifies else latents
        here = here.expand(*here.shape[:-3], latents.shape[-2], *here.shape[-2:])
        there = latents.unsqueeze(-2).expand(*here.shape[:-1], self.width)
        return self.decoder(torch.cat([here, there], dim=-1))

    def _pooled(
        self, x: Float[Tensor, "*c n inputs"], y: Float[Tensor, "*c n answers"]
    ) -> tuple[Float[Tensor, "*b all inputs"], Float[Tensor, "*b all answers"]]:
        """The points of all classes together, of which the latent is made."""
        return (x.flatten(-3, -2), y.flatten(-3, -2)) if self.classifies else (x, y)


class ConditionalNeuralProcess(PathProcess):
    """The mean of the encoded context, decoded at each target. The fast variable is that mean.

    Arguments:
        inputs, outputs, likelihood, min_scale, encoder: see `NeuralProcess`.
        width, depth: units and layers of the encoder and the decoder.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        width: int = 128,
        depth: int = 4,
        likelihood: str = "gaussian",
        min_scale: float = 0.1,
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__(inputs, outputs, width, depth, 0, False, 1, 1, likelihood, min_scale, encoder)


class LatentNeuralProcess(PathProcess):
    """The same with a latent variable beside the mean: targets are no longer independent of each other.

    The fast variables are the mean, and the encoded points that the latent is made of.

    Arguments:
        inputs, outputs, likelihood, min_scale, encoder: see `NeuralProcess`.
        width, depth, num_samples, train_samples: see `PathProcess`.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        width: int = 128,
        depth: int = 4,
        num_samples: int = 16,
        train_samples: int = 4,
        likelihood: str = "gaussian",
        min_scale: float = 0.1,
        encoder: nn.Module | None = None,
    ) -> None:
        draws = (num_samples, train_samples)
        super().__init__(inputs, outputs, width, depth, 0, True, *draws, likelihood, min_scale, encoder)


class AttentiveNeuralProcess(PathProcess):
    """Each target attends to the context; with a latent variable, or without (the conditional one, "CANP").

    The fast variables are the context's keys and values, and the points that the latent is made of.

    Arguments:
        inputs, outputs, likelihood, min_scale, encoder: see `NeuralProcess`.
        width, depth, num_samples, train_samples: see `PathProcess`.
        heads: of attention.
        latent: whether there is a latent variable.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        width: int = 128,
        depth: int = 4,
        heads: int = 8,
        latent: bool = True,
        num_samples: int = 16,
        train_samples: int = 4,
        likelihood: str = "gaussian",
        min_scale: float = 0.1,
        encoder: nn.Module | None = None,
    ) -> None:
        if heads < 1:
            raise ValueError(f"heads must be at least 1, or nothing is attended to; got {heads}.")
        draws = (num_samples, train_samples)
        super().__init__(inputs, outputs, width, depth, heads, latent, *draws, likelihood, min_scale, encoder)

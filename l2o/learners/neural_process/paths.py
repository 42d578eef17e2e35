"""How a context comes to the decoder: its mean, what each target attends to, and a latent variable of it all."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import vmap

from l2o.learners.backbones import MLP
from l2o.learners.base import Fast
from l2o.learners.neural_process.attention import CrossAttention
from l2o.rules.counted_noise import normal
from l2o.tasks.episodes import Examples


class MeanPath(nn.Module):
    """One representation for all targets: the mean of the encoded context points (Garnelo et al., 2018a).

    Arguments:
        inputs, outputs: numbers in an input and in a value.
        width: units of layers, and numbers in the representation.
        depth: layers of the encoder.
    """

    def __init__(self, inputs: int, outputs: int, width: int, depth: int) -> None:
        super().__init__()
        self.encoder = MLP([inputs + outputs, *[width] * depth])

    def start(self, x: Float[Tensor, "*b n inputs"], y: Float[Tensor, "*b n outputs"]) -> Fast:
        """The fast variables of a context."""
        return {"representation": mean_of(self.encoder(torch.cat([x, y], dim=-1)))}

    def at(self, fast: Fast, x: Float[Tensor, "*b m inputs"]) -> Float[Tensor, "*b m width"]:
        """What the context says at inputs."""
        r = fast["representation"].unsqueeze(-2)
        return r.expand(*r.shape[:-2], x.shape[-2], r.shape[-1])


class AttentionPath(nn.Module):
    """A representation for each target: what it finds among the context points' (Kim et al., 2019).

    Context points see each other first; then inputs attend to inputs.

    Arguments:
        inputs, outputs, width, depth: see `MeanPath`.
        heads, axes: see `CrossAttention`.
    """

    def __init__(self, inputs: int, outputs: int, width: int, depth: int, heads: int, axes: int = 2) -> None:
        super().__init__()
        self.encoder = MLP([inputs + outputs, *[width] * depth])
        self.mixing = CrossAttention(width, width, heads, axes)
        self.places = MLP([inputs, width, width])
        self.cross = CrossAttention(width, width, heads, axes)

    def start(self, x: Float[Tensor, "*b n inputs"], y: Float[Tensor, "*b n outputs"]) -> Fast:
        """The fast variables of a context."""
        z = self.encoder(torch.cat([x, y], dim=-1))
        return {"keys": self.places(x), "values": z + self.mixing(z, z, z)}

    def at(self, fast: Fast, x: Float[Tensor, "*b m inputs"]) -> Float[Tensor, "*b m width"]:
        """What the context says at inputs."""
        return self.cross(self.places(x), fast["keys"], fast["values"])


class LatentPath(nn.Module):
    """A normal latent variable of the whole context (Garnelo et al., 2018b): deviation .1 + .9 sigmoid.

    The fast variables are the encoded context points: of their mean the latent is made, and of theirs and the targets'
    the latent that has seen both.

    Arguments:
        inputs, outputs, width, depth: see `MeanPath`; the latent has `width` numbers.
    """

    def __init__(self, inputs: int, outputs: int, width: int, depth: int) -> None:
        super().__init__()
        self.encoder, self.head = MLP([inputs + outputs, *[width] * depth]), MLP([width, width, 2 * width])

    def start(self, x: Float[Tensor, "*b n inputs"], y: Float[Tensor, "*b n outputs"]) -> Fast:
        """The fast variables of a context."""
        return {"encodings": self.encoder(torch.cat([x, y], dim=-1))}

    def prior(self, fast: Fast) -> Float[Tensor, "*b 2 width"]:
        """The latent given the context."""
        return self.of(fast["encodings"])

    def of(self, encodings: Float[Tensor, "*b n width"]) -> Float[Tensor, "*b 2 width"]:
        """Mean and raw deviation of the latent, given encoded points."""
        return self.head(mean_of(encodings)).unflatten(-1, (2, -1))

    def posterior(
        self, fast: Fast, x: Float[Tensor, "*b m inputs"], y: Float[Tensor, "*b m outputs"]
    ) -> Float[Tensor, "*b 2 width"]:
        """The latent given context and targets."""
        seen = self.encoder(torch.cat([x, y], dim=-1))
        return self.of(torch.cat([fast["encodings"], seen], dim=-2))


def deviation(raw: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Of a latent; bounded on both sides."""
    return 0.1 + 0.9 * torch.sigmoid(raw)


def divergence(q: Float[Tensor, "*b 2 width"], p: Float[Tensor, "*b 2 width"]) -> Float[Tensor, "*b"]:
    """The Kullback-Leibler divergence KL(q | p) of two latents."""
    (mean_q, raw_q), (mean_p, raw_p) = q.unbind(-2), p.unbind(-2)
    s_q, s_p = deviation(raw_q), deviation(raw_p)
    return ((s_p / s_q).log() + (s_q.square() + (mean_q - mean_p).square()) / (2 * s_p.square()) - 0.5).sum(-1)


def samples(
    latent: Float[Tensor, "*b 2 width"], noise: Float[Tensor, "*#b num width"]
) -> Float[Tensor, "*b num width"]:
    """Draws of a latent, by given normal numbers."""
    mean, raw = latent.unsqueeze(-3).unbind(-2)
    return mean + deviation(raw) * noise


def seeds(query: Examples, num_axes: int) -> Int[Tensor, "*b"]:
    """Integers that differ from episode to episode, so that a learner can be random and yet a function.

    Arguments:
        num_axes: leading ones, over which episodes are stacked.
    """
    parts = [(x.detach().double() * 2.0**20).long().flatten(num_axes).sum(-1) for x in query]
    return parts[0] * 31 + parts[1]


def noise(seed: Int[Tensor, "*b"], shape: tuple[int, int], like: Tensor) -> Float[Tensor, "*b rows columns"]:
    """Normal numbers, a block of this shape for each seed."""
    zero, block = torch.zeros_like(seed.flatten()[:1].squeeze(0)), like.new_zeros(shape)
    if seed.ndim == 0:
        return normal(seed, zero, 0, block)
    return vmap(lambda one: normal(one, zero, 0, block))(seed.flatten()).unflatten(0, seed.shape)


def mean_of(z: Float[Tensor, "*b n width"]) -> Float[Tensor, "*b width"]:
    """Over the points; zeros where there is none."""
    return z.sum(-2) / max(1, z.shape[-2])

"""Conditional neural adaptive processes, CNAPs (Requeima et al., 2019, https://arxiv.org/abs/1906.07697)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call

from l2o.learners.answers import class_means, features_of
from l2o.learners.base import Fast, Learner, loss_of
from l2o.learners.batch_norm import BatchNorm
from l2o.tasks.episodes import Examples

NORMS = (BatchNorm, nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
AFFINE = (nn.Linear, nn.modules.conv._ConvNd)


C = TypeVar("C", bound="CNAPs")


class CNAPs(Learner):
    """A backbone's channels are scaled and shifted for the task (FiLM), and a linear classifier is made from its means.

        code = mean_i set_encoder(x_i),   layer(x) -> (1 + s(code)) layer(x) + t(code)
        w_c = (m_c + f(m_c)) / dim^.5,  b_c = g(m_c),   m_c = mean embedding of class c,   scores = z w_c + b_c

    s and t are linear layers that start at zero, so that the backbone starts as it is. Without their auto-regressive
    code, which depends on the activations of the layers before (section 2.3).

    The fast variables are scales, shifts, w and b. The order of the support set is of no meaning, and classes may be
    of any number.

    Arguments:
        network: the backbone, trained before: maps inputs (n, *features) to embeddings (n, dim).
        set_encoder: maps inputs (n, *features) to codes (n, dim).
        way: classes in an episode; None to count them in each support set, which `vmap` cannot.
        layers: names of the backbone's layers to modulate, each with weight and bias; if empty all normalisation
            layers that have such, or where there are none all linear and convolutional ones.
        frozen: whether the backbone stays as it is (its parameters are frozen in torch's way, in place). It is then
            always in evaluation mode, so that normalisation by `running` statistics uses those of its own training.
        hidden: units of f and g.
        num_features: numbers in an embedding; None for the backbone's `num_features`.
        num_code: numbers in a code; None for the set encoder's `num_features`.
    """

    def __init__(
        self,
        network: nn.Module,
        set_encoder: nn.Module,
        way: int | None = None,
        layers: Sequence[str] = (),
        frozen: bool = True,
        hidden: int = 128,
        num_features: int | None = None,
        num_code: int | None = None,
    ) -> None:
        super().__init__()
        self.network, self.set_encoder, self.way, self.frozen = network, set_encoder, way, frozen
        if frozen:
            network.requires_grad_(False)
        self.layers = list(layers) or modulated(network)
        self.channels = [_channels(network, name) for name in self.layers]
        self.film = nn.Linear(features_of(set_encoder, num_code), 2 * sum(self.channels))
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        dim = features_of(network, num_features)
        self.weights, self.bias = _perceptron(dim, hidden, dim), _perceptron(dim, hidden, 1)
        self.train(self.training)

    def train(self: C, mode: bool = True) -> C:
        """As of any module, but for a frozen backbone."""
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def start(self, support: Examples) -> Fast:
        scale, shift = self.film(self.set_encoder(support.x).mean(0)).chunk(2)
        film = {"scale": 1 + scale, "shift": shift}
        means = class_means(self.embed(film, support.x), support, self.way)
        weights = (means + self.weights(means)) / math.sqrt(means.shape[-1])
        return {**film, "weights": weights, "bias": self.bias(means).squeeze(-1)}

    def inner_loss(self, fast: Fast, support: Examples) -> Float[Tensor, ""]:
        return loss_of(self.predict(fast, support.x), support.y)

    def predict(self, fast: Fast, x: Shaped[Tensor, " n *features"]) -> Float[Tensor, "n way"]:
        return self.embed(fast, x) @ fast["weights"].T + fast["bias"]

    def embed(self, fast: Fast, x: Shaped[Tensor, " n *features"]) -> Float[Tensor, "n dim"]:
        """What the modulated backbone says of inputs.

        A layer with weight w and bias b has scaled and shifted outputs with s w and s b + t.
        """
        parts = (fast[name].split(self.channels) for name in ("scale", "shift"))
        changed = {}
        for name, scale, shift in zip(self.layers, *parts, strict=True):
            weight, bias = _affine(self.network.get_submodule(name))
            dot = f"{name}." if name else ""
            changed[f"{dot}weight"] = scale.view(-1, *[1] * (weight.ndim - 1)) * weight
            changed[f"{dot}bias"] = scale * bias + shift
        return functional_call(self.network, changed, (x,))


def modulated(network: nn.Module) -> list[str]:
    """The layers that are modulated where none are named: normalisation, or else linear ones and convolutions.

    Raises:
        ValueError: there are none with weight and bias.
    """
    for kinds in (NORMS, AFFINE):
        found = [name for name, m in network.named_modules() if isinstance(m, kinds) and _affine(m)]
        if found:
            return found
    raise ValueError(
        "the backbone must have layers with weight and bias to scale and shift (normalisation, linear, convolution); "
        f"{type(network).__name__} has none."
    )


def _affine(layer: nn.Module) -> tuple[Tensor, ...]:
    """A layer's weight and bias; nothing where it has not both, with a row and a number for each channel."""
    found = tuple(x for x in (getattr(layer, "weight", None), getattr(layer, "bias", None)) if isinstance(x, Tensor))
    return found if len(found) == 2 and found[1].shape == found[0].shape[:1] else ()


def _channels(network: nn.Module, name: str) -> int:
    """Channels of a layer's output.

    Raises:
        ValueError: no such layer, or one without weight and bias.
    """
    known = dict(network.named_modules())
    if name not in known or not _affine(known[name]):
        raise ValueError(
            f"layers must be names of the backbone's layers with a weight and a bias for each channel, {list(known)}; "
            f"got {name!r}."
        )
    return len(_affine(known[name])[1])


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))

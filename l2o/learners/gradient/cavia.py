"""Fast context adaptation, CAVIA (Zintgraf et al., 2019, https://arxiv.org/abs/1810.03642)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from l2o.configured import Configured
from l2o.learners.backbones import MLP, Conv4
from l2o.learners.base import Fast, Learner, loss_of
from l2o.learners.convolution import precision_of
from l2o.tasks.episodes import Examples


class CAVIA(Learner):
    """The fast variables are a context vector that starts at zero; the network's weights are shared by all tasks.

    Arguments:
        network: called with inputs and the context: `WithContext` around a perceptron whose first layer reads both,
            `FiLMMLP`, `FiLMConv4`, or a module of your own.
        num_context: numbers in the context.
    """

    def __init__(self, network: nn.Module, num_context: int = 5) -> None:
        super().__init__()
        if num_context < 1:
            raise ValueError(f"num_context must be positive, or nothing would adapt; got {num_context}.")
        self.network, self.num_context = network, num_context

    def start(self, support: Examples) -> Fast:
        like = next(self.network.parameters())
        return {"context": like.new_zeros(self.num_context)}

    def inner_loss(self, fast: Fast, support: Examples) -> Float[Tensor, ""]:
        return loss_of(self.predict(fast, support.x), support.y)

    def predict(self, fast: Fast, x: Shaped[Tensor, " n *features"]) -> Float[Tensor, " n *outputs"]:
        return self.network(x, fast["context"])


class WithContext(Configured):
    """A network of vectors that reads the context as further inputs.

    Arguments:
        network: maps (n, features + num_context) to (n, outputs).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Float[Tensor, "n features"], context: Float[Tensor, " k"]) -> Float[Tensor, "n outputs"]:
        return self.network(torch.cat([x, context.to(x.dtype).expand(len(x), -1)], dim=-1))


class FiLMMLP(Configured):
    """A perceptron in which the context scales and shifts the units of every hidden layer.

    What `FiLMConv4` is for pictures, where the paper classifies. A context among the inputs shifts the first layer's
    units alone, from which it is hard to learn to compare inputs with the examples that the context is made from.

    Arguments:
        network: the perceptron.
        num_context: numbers in the context.
    """

    def __init__(self, network: MLP, num_context: int = 100) -> None:
        super().__init__()
        if not network.hidden:
            raise ValueError("the network must have a hidden layer, whose units are scaled; it has none.")
        self.network = network
        self.films = nn.ModuleList(_film(num_context, layer.out_features) for layer in network.hidden)

    def forward(self, x: Float[Tensor, "n features"], context: Float[Tensor, " k"]) -> Float[Tensor, "n outputs"]:
        for film, layer, norm in zip(self.films, self.network.hidden, self.network.norms, strict=True):
            scale, shift = film(context).chunk(2)
            x = torch.relu(norm(layer(x)) * (1 + scale) + shift)
        return self.network.head(x)


class FiLMConv4(Configured):
    """A Conv4 in which the context scales and shifts the channels of one block (section 3.3 of the paper).

    Arguments:
        network: the Conv4.
        num_context: numbers in the context.
        block: which block's convolution is modulated, counted from 0; the third of the authors' four.
    """

    def __init__(self, network: Conv4, num_context: int = 100, block: int = 2) -> None:
        super().__init__()
        if not 0 <= block < len(network.convs):
            raise ValueError(f"block must be one of the network's {len(network.convs)}, from 0; got {block}.")
        self.network, self.block = network, block
        self.film = _film(num_context, network.convs[block].out_channels)

    def forward(
        self, x: Float[Tensor, "n channels size size"], context: Float[Tensor, " k"]
    ) -> Float[Tensor, "n outputs"]:
        scale, shift = self.film(context).chunk(2)
        z = x
        with precision_of(self.network.precision, x):
            for i, (conv, norm) in enumerate(zip(self.network.convs, self.network.norms, strict=True)):
                z = norm(conv(z))
                z = z if self.network.strided else F.max_pool2d(z, 2)
                if i == self.block:  # the authors scale by `scale`, which begins around 0 and hides the block
                    z = z * (1 + scale).view(-1, 1, 1) + shift.view(-1, 1, 1)
                z = torch.relu(z)
        return self.network.head(z.to(x.dtype).flatten(1))


def _film(num_context: int, units: Any) -> nn.Linear:
    """A scale, from 1, and a shift of so many units, none without context; the authors draw the bias."""
    film = nn.Linear(num_context, 2 * units)
    nn.init.zeros_(film.bias)
    return film

"""A small transformer as a character language model (Vaswani et al., 2017; layer norm first, as Radford et al., 2019).

Attention is written as products and a softmax: the fused kernels have no second derivative.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor

from l2o.tasks.base import TaskFamily
from l2o.tasks.data import Text, shakespeare
from l2o.tasks.nets import init_weight, layer_norm
from l2o.tasks.supervised import Classifier, OnText, draw_structure, log_uniform
from l2o.types import Params


@dataclass(frozen=True)
class TransformerLanguageModel(Classifier, OnText):
    """Predicts each next character from those before it in the window.

    Arguments:
        data, batch_size, length: see `OnText`.
        width: size of a position's vector.
        heads: attention heads; they divide the width.
        layers: blocks of attention and a feed-forward network of four times the width.
        init_scale: factor on all initial weights.
    """

    width: int = 32
    heads: int = 2
    layers: int = 1
    init_scale: float | Float[Tensor, ""] = 1.0

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"heads must divide the width; got {self.heads} heads and width {self.width}.")

    def init(self, generator: Generator) -> Params:
        width, scale, classes = self.width, self.init_scale, self.data.num_classes
        params = {
            "embedding": torch.randn(classes, width, generator=generator) * (0.5 * scale),
            "position": torch.randn(self.length, width, generator=generator) * (0.1 * scale),
        }
        deep = scale / math.sqrt(2 * self.layers)  # what blocks add together keeps its size with depth
        for i in range(self.layers):
            params |= _init_norm(f"{i}.norm1", width) | _init_norm(f"{i}.norm2", width)
            params[f"{i}.qkv.weight"] = init_weight(generator, 3 * width, width, gain=scale)
            params[f"{i}.out.weight"] = init_weight(generator, width, width, gain=deep)
            params[f"{i}.up.weight"] = init_weight(generator, 4 * width, width, gain=scale)
            params[f"{i}.up.bias"] = torch.zeros(4 * width)
            params[f"{i}.down.weight"] = init_weight(generator, width, 4 * width, gain=deep)
            params[f"{i}.down.bias"] = torch.zeros(width)
        params |= _init_norm("norm", width)
        return params | {"head.weight": init_weight(generator, classes, width, gain=scale)}

    def logits(self, params: Params, x: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length classes"]:
        h = params["embedding"][x] + params["position"][: x.shape[-1]]
        for i in range(self.layers):
            h = h + self._attend(params, f"{i}.", _norm(params, f"{i}.norm1", h))
            up = F.linear(_norm(params, f"{i}.norm2", h), params[f"{i}.up.weight"], params[f"{i}.up.bias"])
            h = h + F.linear(F.gelu(up), params[f"{i}.down.weight"], params[f"{i}.down.bias"])
        return F.linear(_norm(params, "norm", h), params["head.weight"])

    def _attend(
        self, params: Params, prefix: str, x: Float[Tensor, "batch length width"]
    ) -> Float[Tensor, "batch length width"]:
        """Causal self-attention with several heads."""
        qkv = F.linear(x, params[f"{prefix}qkv.weight"]).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each: batch, head, position, feature
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        attention = scores.masked_fill(future, float("-inf")).softmax(dim=-1)
        return F.linear((attention @ v).transpose(1, 2).flatten(2), params[f"{prefix}out.weight"])


def _init_norm(name: str, width: int) -> Params:
    return {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}


def _norm(params: Params, name: str, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
    return layer_norm(x, params[f"{name}.weight"], params[f"{name}.bias"])


@dataclass(frozen=True)
class TransformerFamily(TaskFamily):
    """Random small transformers. Every tuple of options is a structural choice that `fix` makes.

    Arguments:
        width: sizes of a position's vector.
        heads: numbers of attention heads; each divides each width.
        layers: numbers of blocks.
        length: characters in a window.
        batch_size: windows in a batch.
        init_scale: range of the log-uniform factor on initial weights, drawn for each task.
        sources: texts.
    """

    width: tuple[int, ...] = (32,)
    heads: tuple[int, ...] = (2,)
    layers: tuple[int, ...] = (1,)
    length: tuple[int, ...] = (16,)
    batch_size: tuple[int, ...] = (16,)
    init_scale: tuple[float, float] = (1.0, 1.0)
    sources: tuple[Text, ...] = field(default_factory=lambda: (shakespeare(),))

    def fix(self, generator: Generator) -> TransformerFamily:
        return draw_structure(self, generator, "width", "heads", "layers", "length", "batch_size", "sources")

    def sample(self, generator: Generator) -> TransformerLanguageModel:
        fixed = self.fix(generator)
        return TransformerLanguageModel(
            data=fixed.sources[0],
            batch_size=fixed.batch_size[0],
            length=fixed.length[0],
            width=fixed.width[0],
            heads=fixed.heads[0],
            layers=fixed.layers[0],
            init_scale=log_uniform(self.init_scale, generator),
        )

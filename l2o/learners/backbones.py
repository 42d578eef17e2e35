"""Networks that learners adapt or embed with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from l2o.configured import Configured
from l2o.learners.batch_norm import Norm, norm_layer
from l2o.learners.convolution import Conv3x3, Precision, precision_of


class MLP(Configured):
    """Fully connected layers with relu between them.

    Arguments:
        sizes: numbers of inputs, of each hidden layer's units, of outputs.
        norm: statistics of batch normalisation (see `batch_norm`) of hidden layers, or none; with it inputs must
            be (n, inputs).
    """

    def __init__(self, sizes: Sequence[int], norm: Norm = "none") -> None:
        super().__init__()
        *hidden, last = (nn.Linear(n_in, n_out) for n_in, n_out in pairwise(sizes))
        self.hidden, self.head = nn.ModuleList(hidden), last
        self.norms = nn.ModuleList(norm_layer(layer.out_features, norm) for layer in hidden)
        self.num_features = sizes[-1]

    def forward(self, x: Float[Tensor, "*n inputs"]) -> Float[Tensor, "*n outputs"]:
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            x = torch.relu(norm(layer(x)))
        return self.head(x)


class Conv4(Configured):
    """Four blocks of 3x3 convolution, normalisation, relu and a step down to half the size; then a linear head.

    The backbone of few-shot learning since Vinyals et al. (2016), who halve by max-pooling; MAML and Reptile halve by
    convolving with stride 2 on Omniglot, a quarter of the work.

    Arguments:
        outputs: of the head; 0 for none, the output is then the embedding.
        width: channels.
        channels: of an image.
        size: pixels of an image's side.
        norm: statistics of batch normalisation (see `batch_norm`), or none.
        strided: halve by the convolution in place of pooling.
        depth: blocks.
        precision: of the convolutions: bfloat16 takes half the time where the processor knows it; weights, statistics
            and the output stay float32.
    """

    def __init__(
        self,
        outputs: int = 0,
        width: int = 64,
        channels: int = 1,
        size: int = 28,
        norm: Norm = "batch",
        strided: bool = False,
        depth: int = 4,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        self.precision = precision
        self.strided = strided
        sizes = [channels, *[width] * depth]
        stride = 2 if strided else 1
        self.convs = nn.ModuleList(Conv3x3(a, b, stride=stride) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(norm_layer(width, norm) for _ in range(depth))
        for _ in range(depth):
            size = -(-size // 2) if strided else size // 2
        self.num_features = width * size * size
        self.head = nn.Linear(self.num_features, outputs) if outputs else nn.Identity()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # up to twice as fast on a CPU

    def forward(self, x: Float[Tensor, "n channels size size"]) -> Float[Tensor, "n outputs"]:
        return self.head(self.maps(x).flatten(1))

    def maps(self, x: Float[Tensor, "n channels size size"]) -> Float[Tensor, "n width height breadth"]:
        """The last block's output."""
        z = x
        with precision_of(self.precision, x):
            for conv, norm in zip(self.convs, self.norms, strict=True):
                z = norm(conv(z))
                # pooling before the relu gives the same as after it, at a quarter of the relu's work
                z = torch.relu(z if self.strided else F.max_pool2d(z, 2))
        return z.to(x.dtype)

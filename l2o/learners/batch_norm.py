"""Batch normalisation with its policy said out loud.

A network that sees few examples is judged very differently by where its statistics come from:

    batch     those of the batch at hand, always. For query sets this is transductive: queries are judged together, and
              one's answer depends on the others (MAML's and Reptile's better numbers are such)
    running   the batch's while training; in evaluation those of the training episodes, measured by `calibrate`: each
              query is judged alone (prototypical networks and their kin)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from l2o.learners.transforms import inside_transform

Statistics: TypeAlias = Literal["batch", "running"]
Norm: TypeAlias = Literal["batch", "running", "none"]


class BatchNorm(nn.Module):
    """(x - mean) / sqrt(variance + 1e-5) * weight + bias over all axes but the second (Ioffe and Szegedy, 2015).

    No running average is kept while training, so that a network stays a pure function of its parameters; `calibrate`
    measures what evaluation needs.

    Arguments:
        num_features: size of the second axis.
        statistics: where mean and variance come from, see above.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, num_features: int, statistics: Statistics = "batch") -> None:
        super().__init__()
        if statistics not in ("batch", "running"):
            raise ValueError(f"statistics must be 'batch' or 'running', the two known sources; got {statistics!r}.")
        self.statistics: Statistics = statistics
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        if statistics == "running":
            self.register_buffer("mean", torch.zeros(num_features))
            self.register_buffer("variance", torch.full((num_features,), float("nan")))  # not measured yet
        self.seen: list[tuple[Tensor, Tensor]] | None = None

    def use(self, statistics: Statistics) -> None:
        """Take other statistics from now on.

        Raises:
            ValueError: running ones, of a layer that was made without.
        """
        if statistics == "running" and not hasattr(self, "variance"):
            raise ValueError("running statistics need a layer that was made with them; this one has the batch's only.")
        self.statistics = statistics

    def forward(self, x: Float[Tensor, "n features *rest"]) -> Float[Tensor, "n features *rest"]:
        if self.seen is not None:
            axes = [0, *range(2, x.ndim)]
            self.seen.append((x.detach().float().mean(axes), x.detach().float().var(axes, correction=0)))
        elif self.statistics == "running" and not self.training:
            if not torch.compiler.is_compiling() and bool(self.variance.isnan().any()):
                raise ValueError(
                    "running statistics must be measured before evaluation, on training episodes (`calibrate`, or "
                    "`judge(..., calibration=...)`); these never were."
                )
            return F.batch_norm(x, self.mean, self.variance, self.weight, self.bias)
        return batch_norm(x, self.weight, self.bias)

    def reset_parameters(self) -> None:
        """As a fresh one."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)


def batch_norm(
    x: Float[Tensor, "n features *rest"], weight: Float[Tensor, " features"], bias: Float[Tensor, " features"]
) -> Float[Tensor, "n features *rest"]:
    """Normalisation by the batch's own statistics, right in every order of derivative and under every transform.

    Raises:
        ValueError: one value for each feature, whose variance is 0.
    """
    if x.numel() == x.shape[1]:
        raise ValueError(
            f"statistics of a batch need more than one value of each feature; got {tuple(x.shape)}, one example."
        )
    if not inside_transform():
        return F.batch_norm(x, None, None, weight, bias, training=True)
    # torch's own loses second-order terms when a derivative is taken outside a vmap over derivatives
    axes = [0, *range(2, x.ndim)]
    centred = x - x.mean(axes, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(axes, keepdim=True) + 1e-5)
    shape = (1, -1, *[1] * (x.ndim - 2))
    return centred * scale * weight.view(shape) + bias.view(shape)


def norm_layer(num_features: int, norm: Norm) -> nn.Module:
    """A `BatchNorm` of such statistics, or nothing.

    Raises:
        ValueError: norm is neither batch, running nor none.
    """
    if norm not in ("batch", "running", "none"):
        raise ValueError(f"norm must be batch, running or none; got {norm!r}.")
    return nn.Identity() if norm == "none" else BatchNorm(num_features, norm)


def calibrate(module: nn.Module, run: Callable[[], object]) -> int:
    """Measure the statistics of `running` layers: the means over the batches that `run` puts through the module.

    Layers that are frozen keep theirs, once they have some.

    (Also called precise batch norm: Wu and Johnson, 2021, https://arxiv.org/abs/2105.07576, section 3.)

    Returns:
        the number of layers measured.
    """
    layers = [m for m in module.modules() if isinstance(m, BatchNorm) and m.statistics == "running"]
    layers = [m for m in layers if m.weight.requires_grad or bool(m.variance.isnan().any())]
    if not layers:
        return 0
    with _watched(layers), torch.no_grad():
        run()
        for layer in layers:
            if layer.seen:
                means, variances = (torch.stack(values) for values in zip(*layer.seen, strict=True))
                layer.mean.copy_(means.mean(0))
                layer.variance.copy_(variances.mean(0))
    return len(layers)


@contextmanager
def _watched(layers: list[BatchNorm]) -> Iterator[None]:
    for layer in layers:
        layer.seen = []
    try:
        yield
    finally:
        for layer in layers:
            layer.seen = None

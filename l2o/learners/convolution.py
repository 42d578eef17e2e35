"""The 3x3 convolution of the few-shot backbones, as fast on a CPU as it can be and right under every transform."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from l2o.learners.transforms import inside_transform

Precision = Literal["float32", "bfloat16"]


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution, see `convolve`.

    Arguments:
        channels_in, channels_out, padding, stride: as of `nn.Conv2d`.
    """

    def __init__(self, channels_in: int, channels_out: int, padding: int = 1, stride: int = 1) -> None:
        super().__init__(channels_in, channels_out, 3, stride, padding)

    def forward(self, input: Float[Tensor, "n channels_in size size"]) -> Tensor:
        return convolve(input, self.weight, self.bias, int(self.padding[0]), self.stride[0])


def convolve(
    x: Float[Tensor, "n channels_in height breadth"],
    weight: Float[Tensor, "channels_out channels_in 3 3"],
    bias: Float[Tensor, " channels_out"] | None = None,
    padding: int = 1,
    stride: int = 1,
) -> Float[Tensor, "n channels_out height_out breadth_out"]:
    """A convolution whose weights may have channels last: their second derivatives under vmap do not know of that."""
    return F.conv2d(
        x, weight.clone(memory_format=torch.contiguous_format) if inside_transform() else weight, bias, stride, padding
    )


def precision_of(precision: str, x: Tensor) -> AbstractContextManager[object]:
    """Where convolutions are to be in that precision.

    Raises:
        ValueError: it is neither float32 nor bfloat16.
    """
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision must be float32 or bfloat16; got {precision!r}.")
    return nullcontext() if precision == "float32" else torch.autocast(x.device.type, torch.bfloat16)

"""Normal random numbers that are a pure function of a seed and of where they are used.

A rule may not draw from a generator: it is pure, and mapped over lanes. These numbers come from hashes of integers
(xorshift and multiply; constants of lowbias32, C. Wellons, 2018, https://github.com/skeeto/hash-prospector), two of
which make a normal number (Box and Muller, 1958). They are for exploration, not for statistics or secrets.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

LOW = 0xFFFFFFFF


def normal(seed: Int[Tensor, ""], step: Int[Tensor, ""], index: int, like: Float[Tensor, "*p"]) -> Float[Tensor, "*p"]:
    """Normal numbers in the shape, precision and place of `like`.

    Arguments:
        seed, step, index: other ones give other numbers; `index` is of the tensor.
    """
    key = _mixed(_mixed(_mixed(seed & LOW) ^ (step & LOW)) ^ index)
    place = 2 * torch.arange(like.numel(), device=like.device)
    one, two = (_mixed(_mixed(place + i) ^ key).to(like.dtype) / 2.0**32 for i in (0, 1))
    radius = torch.sqrt(-2.0 * torch.log(one.clamp(min=2.0**-33)))
    return (radius * torch.cos(2.0 * math.pi * two)).view(like.shape)


def _mixed(x: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """32 bits that look random; products may overflow, for only their low bits are kept."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & LOW
    x = ((x ^ (x >> 15)) * 0x846CA68B) & LOW
    return x ^ (x >> 16)

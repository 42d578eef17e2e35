"""A support set as one vector, whatever the order of its rows (deep sets, Zaheer et al., 2017)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class SetEncoder(nn.Module):
    """Means of embedded examples, weighted by each number of their answers, and the plain mean.

        r_i = net([z_i, y_i]),   code = [mean_i r_i, sum_i y_ik r_i / sum_i |y_ik| for k = 1 .. outputs]

    Where answers are labels, as rows of zeros and a one, the weighted means are the classes' own, in the order of their
    labels, and zero for a class without examples. (https://arxiv.org/abs/1703.06114, section 3.1, whose sum is here a
    mean, so that set sizes may differ.)

    Arguments:
        features: numbers in an embedding z.
        outputs: numbers in an answer y.
        size: numbers in r.

    Attributes:
        num_features: numbers in the code.
    """

    def __init__(self, features: int, outputs: int, size: int = 64) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size must be at least 1, or the support set is not seen; got {size}.")
        self.first, self.second = nn.Linear(features + outputs, size), nn.Linear(size, size)
        self.num_features = (1 + outputs) * size

    def forward(self, z: Float[Tensor, "n features"], y: Float[Tensor, "n outputs"]) -> Float[Tensor, " code"]:
        r = self.second(torch.relu(self.first(torch.cat([z, y], dim=-1))))
        weighted = (y.T @ r) / y.abs().sum(0).clamp(min=1e-6).unsqueeze(-1)
        return torch.cat([r.mean(0), weighted.flatten()])

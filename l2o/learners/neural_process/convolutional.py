"""Convolutional conditional neural processes on a line (Gordon et al., 2020, https://arxiv.org/abs/1910.13556)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from l2o.learners.backbones import MLP
from l2o.learners.base import Fast
from l2o.learners.neural_process.classwise import ClasswiseProcess
from l2o.learners.transforms import inside_transform
from l2o.tasks.episodes import Examples


class ConvolutionalNeuralProcess(ClasswiseProcess):
    """A context is smoothed onto a grid, convolved there, and smoothed to the targets: moved inputs, moved predictions.

    The first channel on the grid is the density of context points, w(g) = sum_i k(g - x_i), so that "no point" differs
    from "a point of value 0"; the others are the values by that density, sum_i k(g - x_i) y_i / w(g).

    The fast variables are the convolutions' output, a field of features on the grid.

    Arguments:
        domain: from and to, of inputs; the grid goes `margin` further on both sides. Inputs beyond it are refused.
        margin: of the grid.
        points_per_unit: of the grid; a few for each lengthscale of the functions.
        channels, depth, kernel: of the residual convolutions; what a prediction depends on lies within
            depth * (kernel - 1) / 2 grid points of it.
        outputs, likelihood, min_scale: see `NeuralProcess`.
    """

    grid: Tensor

    def __init__(
        self,
        domain: tuple[float, float] = (-2.0, 2.0),
        margin: float = 0.5,
        points_per_unit: int = 16,
        channels: int = 64,
        depth: int = 6,
        kernel: int = 7,
        outputs: int = 1,
        likelihood: str = "gaussian",
        min_scale: float = 0.01,
    ) -> None:
        super().__init__(1, outputs, likelihood, min_scale)
        low, high = domain
        if not low < high or margin < 0 or points_per_unit < 1:
            raise ValueError(
                "domain must be from the lower to the higher, margin not negative, points_per_unit positive; got "
                f"{domain}, {margin}, {points_per_unit}."
            )
        if kernel < 1 or kernel % 2 == 0 or depth < 1:
            raise ValueError(f"kernel must be odd and depth positive; got {kernel} and {depth}.")
        self.reach = (low - margin, high + margin)
        num = math.ceil((high - low + 2 * margin) * points_per_unit) + 1
        self.register_buffer("grid", torch.linspace(*self.reach, num), persistent=False)
        spacing = 1 / points_per_unit
        self.log_widths = nn.Parameter(torch.full((2,), math.log(2 * spacing)))  # of smoothing, there and back
        self.lift = nn.Conv1d(1 + self.num_answers, channels, 1)
        self.blocks = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding=kernel // 2) for _ in range(depth))
        self.head = MLP([channels, channels, self.num_numbers])

    def start(self, support: Examples) -> Fast:
        x = self._checked(self.embed(support.x))
        near = self._log_closeness(self.grid.to(x.dtype).unsqueeze(-1), x, 0).exp()  # (*b, grid, n)
        near = near.unsqueeze(-3) if self.classifies else near
        density = near.sum(-1, keepdim=True)
        data = near @ self.values(support, x) / (density + 1e-5)
        read = torch.cat([density.expand(*data.shape[:-1], 1), data], dim=-1)
        z = self.lift(_flat(read.mT))
        for block in self.blocks:
            z = z + block(torch.relu(z))
        return {"field": z.view(*read.shape[:-2], *z.shape[-2:])}

    def predict(self, fast: Fast, x: Shaped[Tensor, "*n"]) -> Float[Tensor, "*m"]:
        z = self._checked(self.embed(x))
        # shares by softmax: closeness may be 0 to all of the grid, once the width is small
        near = torch.softmax(self._log_closeness(z, self.grid.to(z.dtype).unsqueeze(-1), 1), dim=-1)  # (*b, m, grid)
        near = near.unsqueeze(-3) if self.classifies else near
        return self.shaped(self.head(near @ fast["field"].mT))

    def _log_closeness(
        self, a: Float[Tensor, "*b m 1"], b: Float[Tensor, "*c n 1"], which: int
    ) -> Float[Tensor, "*d m n"]:
        """-d^2 / 2 width^2."""
        return -0.5 * ((a - b.mT) * torch.exp(-self.log_widths[which]).to(a.dtype)).square()

    def _checked(self, x: Float[Tensor, "*b n 1"]) -> Float[Tensor, "*b n 1"]:
        low, high = self.reach
        if not inside_transform() and x.numel() and not low <= float(x.min()) <= float(x.max()) <= high:
            raise ValueError(
                f"inputs must be on the grid, from {low} to {high} (see domain); got some from "
                f"{float(x.min()):.3g} to {float(x.max()):.3g}."
            )
        return x


def _flat(z: Float[Tensor, "*b channels grid"]) -> Float[Tensor, "flat channels grid"]:
    """With one leading axis, as convolutions want it."""
    return z.reshape(-1, *z.shape[-2:])

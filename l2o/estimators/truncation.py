"""When a problem is cut and when it starts anew: windows, horizons, staggered starts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Generator, Tensor


@dataclass(frozen=True)
class Truncation:
    """Lengths of inner training, in inner steps.

    Arguments:
        window: steps unrolled for one estimate.
        horizon: length of a problem: one number, or (low, high) to draw it log-uniformly each time problems start
            (Metz et al., 2022, train on 200 to 20,000). A multiple of `window`; drawn ones are rounded up to one.
        stagger: draw a horizon for each lane, and begin its first problem at a random point of it, counted as if it
            had already run (`random_initial_iteration_offset` of learned_optimization). Otherwise all lanes of a
            worker start and end together.
    """

    window: int = 20
    horizon: int | tuple[int, int] = 100
    stagger: bool = False

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window must be at least 1 inner step; got window={self.window}.")
        low, high = self.bounds
        if low < 1 or high < low:
            raise ValueError(f"horizon must be a positive number or (low, high) with low <= high; got {self.horizon}.")
        if low == high and low % self.window:
            raise ValueError(
                "horizon must be a multiple of window, so that a problem ends where a window ends; "
                f"got horizon={low}, window={self.window}."
            )

    @property
    def bounds(self) -> tuple[int, int]:
        """Shortest and longest horizon."""
        return self.horizon if isinstance(self.horizon, tuple) else (self.horizon, self.horizon)

    def draw(self, num: int, generator: Generator) -> Int[Tensor, " num"]:
        """Horizons for `num` problems that start now, multiples of the window; one for all unless staggered."""
        low, high = self.bounds
        if low == high:
            return torch.full((num,), low)
        uniform = torch.rand(num if self.stagger else 1, generator=generator, dtype=torch.float64)
        steps = torch.exp(math.log(low) + uniform * (math.log(high) - math.log(low)))
        return (torch.ceil(steps / self.window).long() * self.window).clamp(min=self.window).repeat(num // len(steps))

    def offsets(self, horizons: Int[Tensor, " num"], generator: Generator) -> Int[Tensor, " num"]:
        """Ages to begin the very first problems at; zero unless staggered."""
        if not self.stagger:
            return torch.zeros_like(horizons)
        windows = horizons // self.window
        uniform = torch.rand(len(horizons), generator=generator, dtype=torch.float64)
        return (uniform * windows).long() * self.window

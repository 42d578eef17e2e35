"""Random quadratic bowls, the smallest optimizee (Andrychowicz et al., 2016, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.tasks.base import Task, TaskFamily
from l2o.types import Batch, Params


@dataclass(frozen=True)
class Quadratic(Task):
    """Minimise f(w) = |A w - b|^2 / m over w in R^d, full batch.

    Arguments:
        matrix: A.
        target: b.
    """

    matrix: Float[Tensor, "m d"]
    target: Float[Tensor, " m"]

    def init(self, generator: Generator) -> Params:
        return {"w": torch.randn(self.matrix.shape[-1], generator=generator, dtype=self.matrix.dtype)}

    def sample_batch(self, generator: Generator) -> Batch:
        return None

    def loss(self, params: Params, batch: Batch) -> Float[Tensor, ""]:
        return (self.matrix @ params["w"] - self.target).square().mean()


@dataclass(frozen=True)
class Quadratics(TaskFamily):
    """Quadratics with standard normal A and b.

    Arguments:
        dim: size of w; A is square.
        dtype: floating type of the problem.
    """

    dim: int = 10
    dtype: torch.dtype = torch.float32

    def sample(self, generator: Generator) -> Quadratic:
        matrix = torch.randn(self.dim, self.dim, generator=generator, dtype=self.dtype)
        return Quadratic(matrix, torch.randn(self.dim, generator=generator, dtype=self.dtype))

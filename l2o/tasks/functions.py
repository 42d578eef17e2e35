"""Classical test functions of optimization, shifted and turned (Jamil and Yang, 2013, https://arxiv.org/abs/1308.4008)."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.tasks.base import Task, TaskFamily
from l2o.tasks.supervised import draw_structure, log_uniform
from l2o.types import Batch, Params


@dataclass(frozen=True)
class ClassicFunction(Task):
    """Minimise scale * f(x) with x = rotation @ (w - shift) over w in R^d; w starts uniformly in f's usual box.

    Arguments:
        shift: where the origin of f lies.
        rotation: orthogonal matrix.
        scale: factor on the value.

    Class attributes:
        radius: f is usually studied in [-radius, radius]^d.
        minimiser: every coordinate of the best x.
    """

    shift: Float[Tensor, " d"]
    rotation: Float[Tensor, "d d"]
    scale: Float[Tensor, ""]

    radius: ClassVar[float]
    minimiser: ClassVar[float] = 0.0

    @classmethod
    def plain(cls, dim: int, dtype: torch.dtype = torch.float32) -> ClassicFunction:
        """The function itself: no shift, no rotation, scale 1."""
        return cls(torch.zeros(dim, dtype=dtype), torch.eye(dim, dtype=dtype), torch.ones((), dtype=dtype))

    @abstractmethod
    def value(self, x: Float[Tensor, " d"]) -> Float[Tensor, ""]:
        """f."""

    def init(self, generator: Generator) -> Params:
        x = self.radius * (2 * torch.rand(self.shift.shape, generator=generator, dtype=self.shift.dtype) - 1)
        return {"w": self.shift + self.rotation.mT @ x}

    def sample_batch(self, generator: Generator) -> Batch:
        return None

    def sample_batches(self, generator: Generator, num: int) -> Batch:
        return None

    def loss(self, params: Params, batch: Batch) -> Float[Tensor, ""]:
        return self.scale * self.value(self.rotation @ (params["w"] - self.shift))

    def solution(self) -> Params:
        """The best parameters."""
        return {"w": self.shift + self.rotation.mT @ torch.full_like(self.shift, self.minimiser)}


class Rosenbrock(ClassicFunction):
    """A long curved valley; minimum 0 at (1, ..., 1). For d >= 2."""

    radius = 2.048
    minimiser = 1.0

    def value(self, x: Float[Tensor, " d"]) -> Float[Tensor, ""]:
        return (100 * (x[1:] - x[:-1].square()).square() + (1 - x[:-1]).square()).sum()


class Ackley(ClassicFunction):
    """Ripples on a funnel; minimum 0 at the origin, rounded off there so that it has derivatives."""

    radius = 32.768

    def value(self, x: Float[Tensor, " d"]) -> Float[Tensor, ""]:
        norm = torch.sqrt(x.square().mean() + 1e-12)
        ripples = torch.cos(2 * math.pi * x).mean()
        return 20 * (1 - torch.exp(-0.2 * norm)) + math.e - torch.exp(ripples)


class Rastrigin(ClassicFunction):
    """A grid of local minima on a bowl; minimum 0 at the origin."""

    radius = 5.12

    def value(self, x: Float[Tensor, " d"]) -> Float[Tensor, ""]:
        return (x.square() + 10 * (1 - torch.cos(2 * math.pi * x))).sum()


class StyblinskiTang(ClassicFunction):
    """Two minima a coordinate, one deeper; minimum about -39.166 d at (-2.9035, ..., -2.9035)."""

    radius = 5.0
    minimiser = -2.903534

    def value(self, x: Float[Tensor, " d"]) -> Float[Tensor, ""]:
        return 0.5 * (x.square().square() - 16 * x.square() + 5 * x).sum()


@dataclass(frozen=True)
class ClassicFunctions(TaskFamily):
    """Classical functions, moved, turned and scaled at random. `functions` and `dim` are choices that `fix` makes.

    Arguments:
        functions: classes to choose from.
        dim: numbers of parameters.
        shift: deviation of the normal shift.
        rotate: whether to turn the coordinates at random.
        scale: range of the log-uniform factor on the value.
        dtype: floating type of the problem.
    """

    functions: tuple[type[ClassicFunction], ...] = (Rosenbrock, Ackley, Rastrigin, StyblinskiTang)
    dim: tuple[int, ...] = (2,)
    shift: float = 0.0
    rotate: bool = False
    scale: tuple[float, float] = (1.0, 1.0)
    dtype: torch.dtype = torch.float32

    def fix(self, generator: Generator) -> ClassicFunctions:
        return draw_structure(self, generator, "functions", "dim")

    def sample(self, generator: Generator) -> ClassicFunction:
        fixed = self.fix(generator)
        dim = fixed.dim[0]
        shift = self.shift * torch.randn(dim, generator=generator, dtype=self.dtype)
        turned = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=self.dtype)).Q
        rotation = turned if self.rotate else torch.eye(dim, dtype=self.dtype)
        return fixed.functions[0](shift, rotation, log_uniform(self.scale, generator).to(self.dtype))

"""The same task seen differently: other scales of parameters and loss, noise on gradients.

A rule meta-trained on few tasks meets more kinds of them this way (Metz et al., 2022, https://arxiv.org/abs/2211.09760,
"reparametrisation"; for a few tasks only, Moudgil et al., 2025, https://arxiv.org/abs/2501.12670).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.tasks.base import Task, TaskFamily
from l2o.tasks.supervised import draw_structure, log_uniform
from l2o.types import Batch, Params, seeded

Level: TypeAlias = Literal["none", "global", "tensor", "parameter"]


@dataclass(frozen=True)
class Wrapper(Task):
    """A task around another, which draws parameters and batches.

    Arguments:
        task: the task inside.
    """

    task: Task

    def init(self, generator: Generator) -> Params:
        return self.task.init(generator)

    def sample_batch(self, generator: Generator) -> Batch:
        return self.task.sample_batch(generator)

    def sample_batches(self, generator: Generator, num: int) -> Batch:
        return self.task.sample_batches(generator, num)

    def sample_validation_batch(self, generator: Generator) -> Batch:
        return self.task.sample_validation_batch(generator)

    def loss(self, params: Params, batch: Batch) -> Float[Tensor, ""]:
        return self.task.loss(params, batch)


@dataclass(frozen=True)
class Reparametrised(Wrapper):
    """The task in other units: loss'(p) = loss(scale * p), begun at p = init / scale, so it starts the same.

    A gradient is `scale` times the task's own, and the right step is 1 / scale times as long.

    Arguments:
        task: the task inside.
        scales: factor of each parameter tensor, by name: one number, or one for each parameter.
    """

    scales: Params

    def init(self, generator: Generator) -> Params:
        return {name: p / self.scales[name] for name, p in self.task.init(generator).items()}

    def loss(self, params: Params, batch: Batch) -> Float[Tensor, ""]:
        return self.task.loss(self.original(params), batch)

    def original(self, params: Params) -> Params:
        """The parameters in the units of the task inside."""
        return {name: p * self.scales[name] for name, p in params.items()}


@dataclass(frozen=True)
class ScaledLoss(Wrapper):
    """The task with its loss times a number.

    Arguments:
        task: the task inside.
        scale: the number.
    """

    scale: Float[Tensor, ""]

    def loss(self, params: Params, batch: Batch) -> Float[Tensor, ""]:
        return self.scale * self.task.loss(params, batch)


@dataclass(frozen=True)
class NoisyGradient(Wrapper):
    """The task with normal noise on its gradients and nothing else; the noise is drawn with the batch.

    Arguments:
        task: the task inside.
        deviation: deviation of the noise on each number.
        shapes: name and shape of each parameter tensor.
    """

    deviation: Float[Tensor, ""]
    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    def sample_batch(self, generator: Generator) -> Batch:
        return self.task.sample_batch(generator), self._noise(generator)

    def sample_batches(self, generator: Generator, num: int) -> Batch:
        return self.task.sample_batches(generator, num), self._noise(generator, num)

    def sample_validation_batch(self, generator: Generator) -> Batch:
        return self.task.sample_validation_batch(generator), self._noise(generator)

    def _noise(self, generator: Generator, *lead: int) -> Params:
        return {
            name: self.deviation * torch.randn(*lead, *shape, generator=generator, dtype=self.deviation.dtype)
            for name, shape in self.shapes
        }

    def loss(self, params: Params, batch: Batch) -> Float[Tensor, ""]:
        inner, noise = batch
        tilt = sum(((p - p.detach()) * noise[name]).sum() for name, p in params.items())
        return self.task.loss(params, inner) + tilt


@dataclass(frozen=True)
class ReparametrisedFamily(TaskFamily):
    """Tasks of a family in random units, log-uniform in `scale`.

    Arguments:
        family: the family inside.
        scale: range of the factors.
        level: one factor for all parameters (global), for each tensor, or for each parameter, or none; a structural
            choice that `fix` makes. Repeat an entry to favour it.
    """

    family: TaskFamily
    scale: tuple[float, float] = (1e-3, 1e3)
    level: tuple[Level, ...] = ("global",)

    def fix(self, generator: Generator) -> ReparametrisedFamily:
        inside = type(self)(self.family.fix(generator), self.scale, self.level)
        return draw_structure(inside, generator, "level")

    def sample(self, generator: Generator) -> Task:
        fixed = self.fix(generator)
        task, level = fixed.family.sample(generator), fixed.level[0]
        if level == "none":
            return task
        shared = log_uniform(self.scale, generator)
        scales = {}
        for name, p in task.init(seeded(0)).items():  # for names and shapes
            drawn = shared if level == "global" else log_uniform(self.scale, generator, *_shape(p, level))
            scales[name] = drawn.to(p.dtype)
        return Reparametrised(task, scales)


def _shape(p: Tensor, level: Level) -> tuple[int, ...]:
    return tuple(p.shape) if level == "parameter" else ()


@dataclass(frozen=True)
class ScaledLossFamily(TaskFamily):
    """Tasks of a family with their losses times a number, log-uniform in `scale`.

    Arguments:
        family: the family inside.
        scale: range of the number.
    """

    family: TaskFamily
    scale: tuple[float, float] = (1e-3, 1e3)

    def fix(self, generator: Generator) -> ScaledLossFamily:
        return ScaledLossFamily(self.family.fix(generator), self.scale)

    def sample(self, generator: Generator) -> ScaledLoss:
        return ScaledLoss(self.family.sample(generator), log_uniform(self.scale, generator))


@dataclass(frozen=True)
class NoisyGradientFamily(TaskFamily):
    """Tasks of a family with normal noise on their gradients, its deviation log-uniform in `deviation`.

    Arguments:
        family: the family inside.
        deviation: range of the deviation.
    """

    family: TaskFamily
    deviation: tuple[float, float] = (1e-3, 1e-1)

    def fix(self, generator: Generator) -> NoisyGradientFamily:
        return NoisyGradientFamily(self.family.fix(generator), self.deviation)

    def sample(self, generator: Generator) -> NoisyGradient:
        task = self.family.sample(generator)
        params = task.init(seeded(0))  # for names and shapes
        deviation = log_uniform(self.deviation, generator).to(next(iter(params.values())).dtype)
        return NoisyGradient(task, deviation, tuple((name, tuple(p.shape)) for name, p in params.items()))

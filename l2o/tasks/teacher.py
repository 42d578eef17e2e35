"""A student network learns from a random teacher network: as many different problems as one likes, without data.

Teachers of one structure run in one batch: what differs between them are tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from l2o.tasks.base import Task, TaskFamily
from l2o.tasks.nets import GAIN, Activation, apply_mlp, init_mlp
from l2o.tasks.supervised import Classifier, draw_structure, log_uniform
from l2o.types import Batch, Params


@dataclass(frozen=True)
class Student(Task):
    """A perceptron that imitates a tanh teacher on normal inputs; every batch is fresh.

    Arguments:
        teacher: the teacher's parameters.
        mixing: inputs are `mixing @ z` for standard normal z, so their covariance is `mixing @ mixing.T`.
        noise: how wrong labels are; see the subclass.
        hidden: width of each hidden layer of the student.
        activation: the student's nonlinearity.
        batch_size: examples in a batch.
        init_scale: factor on all initial weights.
    """

    teacher: Params
    mixing: Float[Tensor, "features features"]
    noise: Float[Tensor, ""]
    hidden: tuple[int, ...] = (32,)
    activation: Activation = "relu"
    batch_size: int = 64
    init_scale: float | Float[Tensor, ""] = 1.0

    def init(self, generator: Generator) -> Params:
        features, outputs = len(self.mixing), len(list(self.teacher.values())[-1])
        return init_mlp(generator, (features, *self.hidden, outputs), GAIN[self.activation] * self.init_scale)

    def sample_batch(self, generator: Generator) -> Batch:
        return self._draw(generator, self.batch_size)

    def sample_batches(self, generator: Generator, num: int) -> Batch:
        return self._draw(generator, num, self.batch_size)

    def _draw(self, generator: Generator, *shape: int) -> Batch:
        x = torch.randn(*shape, len(self.mixing), generator=generator) @ self.mixing.T
        return x, self._label(apply_mlp(self.teacher, x, "tanh"), generator)

    def _label(self, scores: Float[Tensor, "*batch outputs"], generator: Generator) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class StudentClassification(Classifier, Student):
    """The label is the teacher's highest score; with probability `noise` it is any class."""

    def _label(self, scores: Float[Tensor, "*batch outputs"], generator: Generator) -> Int[Tensor, "*batch"]:
        anything = torch.randint(scores.shape[-1], scores.shape[:-1], generator=generator)
        wrong = torch.rand(scores.shape[:-1], generator=generator) < self.noise
        return torch.where(wrong, anything, scores.argmax(dim=-1))

    def logits(self, params: Params, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch classes"]:
        return apply_mlp(params, x, self.activation)


@dataclass(frozen=True)
class StudentRegression(Student):
    """The target is the teacher's output plus normal noise of deviation `noise`; loss is the mean squared error."""

    def _label(self, scores: Float[Tensor, "*batch outputs"], generator: Generator) -> Float[Tensor, "*batch outputs"]:
        return scores + self.noise * torch.randn(scores.shape, generator=generator)

    def loss(self, params: Params, batch: Batch) -> Float[Tensor, ""]:
        x, y = batch
        return (apply_mlp(params, x, self.activation) - y).square().mean()


@dataclass(frozen=True)
class StudentFamily(TaskFamily):
    """Random teachers and students. Every tuple of options is a structural choice that `fix` makes.

    Inputs have covariance eigenvalues i**-decay (mean 1) in random directions: the larger the decay, the worse the
    problem is conditioned. The teacher's scores have mean 0 and deviation 1, so no class is rare.

    Arguments:
        task: classification, regression, or both.
        features: numbers in an input.
        outputs: classes, or numbers in a target.
        teacher_hidden: widths of the teacher's hidden layer; 0 for a linear teacher.
        hidden, depth, activation: of the student; depth 0 is a linear student.
        batch_size: sizes of a batch.
        decay: range of the uniform exponent of eigenvalues, drawn for each task.
        noise: range of the uniform label noise, drawn for each task.
        init_scale: range of the log-uniform factor on initial weights, drawn for each task.
    """

    task: tuple[type[StudentClassification] | type[StudentRegression], ...] = (StudentClassification,)
    features: tuple[int, ...] = (16,)
    outputs: tuple[int, ...] = (5,)
    teacher_hidden: tuple[int, ...] = (16,)
    hidden: tuple[int, ...] = (32,)
    depth: tuple[int, ...] = (1,)
    activation: tuple[Activation, ...] = ("relu",)
    batch_size: tuple[int, ...] = (64,)
    decay: tuple[float, float] = (0.0, 2.0)
    noise: tuple[float, float] = (0.0, 0.2)
    init_scale: tuple[float, float] = (1.0, 1.0)

    def fix(self, generator: Generator) -> StudentFamily:
        network = ("teacher_hidden", "hidden", "depth", "activation", "batch_size")
        return draw_structure(self, generator, "task", "features", "outputs", *network)

    def sample(self, generator: Generator) -> StudentClassification | StudentRegression:
        fixed = self.fix(generator)
        mixing = random_mixing(fixed.features[0], _uniform(self.decay, generator), generator)
        return fixed.task[0](
            teacher=random_teacher(mixing, fixed.teacher_hidden[0], fixed.outputs[0], generator),
            mixing=mixing,
            noise=_uniform(self.noise, generator),
            hidden=fixed.hidden * fixed.depth[0],
            activation=fixed.activation[0],
            batch_size=fixed.batch_size[0],
            init_scale=log_uniform(self.init_scale, generator),
        )


def random_mixing(features: int, decay: Float[Tensor, ""], generator: Generator) -> Float[Tensor, "d d"]:
    """A matrix whose square has eigenvalues i**-decay of mean 1 in random directions."""
    eigenvalues = torch.arange(1, features + 1) ** -decay
    directions = torch.linalg.qr(torch.randn(features, features, generator=generator)).Q
    return directions * (eigenvalues / eigenvalues.mean()).sqrt()


def random_teacher(mixing: Float[Tensor, "d d"], hidden: int, outputs: int, generator: Generator) -> Params:
    """A tanh network of random weights, its scores standardised on 1000 inputs."""
    features = len(mixing)
    sizes = (features, hidden, outputs) if hidden else (features, outputs)
    teacher, last = init_mlp(generator, sizes, gain=2.0), len(sizes) - 2
    scores = apply_mlp(teacher, torch.randn(1000, features, generator=generator) @ mixing.T, "tanh")
    deviation = scores.std(dim=0)
    teacher[f"{last}.weight"] = teacher[f"{last}.weight"] / deviation.unsqueeze(-1)
    teacher[f"{last}.bias"] = -scores.mean(dim=0) / deviation
    return teacher


def _uniform(bounds: tuple[float, float], generator: Generator) -> Float[Tensor, ""]:
    low, high = bounds
    return low + (high - low) * torch.rand((), generator=generator)

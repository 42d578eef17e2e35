"""What is learned: a task is a value with an initialisation, batches and a loss."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.types import Batch, Params, tree_stack

T = TypeVar("T", bound="Task")


class Task(ABC):
    """A differentiable training problem; pure, every draw comes from the generator.

    Make it a frozen dataclass: its tensor fields (also inside nested tasks and dicts) are what differs between
    tasks of one structure and is stacked when many run at once; all other fields are the structure. Randomness
    inside the loss (dropout, VAE noise) is drawn in `sample_batch`.
    """

    @abstractmethod
    def init(self, generator: Generator) -> Params:
        """Fresh parameters."""

    @abstractmethod
    def sample_batch(self, generator: Generator) -> Batch:
        """One training batch: a tree of tensors, or None for a full-batch problem."""

    @abstractmethod
    def loss(self, params: Params, batch: Batch) -> Float[Tensor, ""]:
        """The scalar to minimise."""

    def sample_batches(self, generator: Generator, num: int) -> Batch:
        """`num` training batches at once, stacked along a new leading axis."""
        return tree_stack([self.sample_batch(generator) for _ in range(num)])

    def sample_validation_batch(self, generator: Generator) -> Batch:
        """One batch that training never sees; problems without such a split draw from the training data."""
        return self.sample_batch(generator)


class TaskFamily(ABC):
    """A distribution over tasks."""

    @abstractmethod
    def sample(self, generator: Generator) -> Task:
        """One task."""

    def fix(self, generator: Generator) -> TaskFamily:
        """The family with its structural choices (width, depth, data set, ...) drawn once.

        Tasks of the returned family share one structure, so they can run in one batch.
        """
        return self


@dataclass(frozen=True)
class Always(TaskFamily):
    """The family with a single task."""

    task: Task

    def sample(self, generator: Generator) -> Task:
        return self.task


@dataclass(frozen=True)
class Mixture(TaskFamily):
    """Draws one of several families, uniformly or by weight.

    Arguments:
        families: the families to choose from.
        weights: relative frequency of each; equal if None.
    """

    families: tuple[TaskFamily, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and len(self.weights) != len(self.families):
            raise ValueError(
                f"a mixture needs one weight per family; got {len(self.weights)} weights "
                f"for {len(self.families)} families."
            )

    def fix(self, generator: Generator) -> TaskFamily:
        weights = torch.tensor(self.weights or (1.0,) * len(self.families))
        choice = int(torch.multinomial(weights, 1, generator=generator))
        return self.families[choice].fix(generator)

    def sample(self, generator: Generator) -> Task:
        return self.fix(generator).sample(generator)


def choose(options: Sequence[Any], generator: Generator) -> Any:
    """One of `options`, uniformly."""
    return options[int(torch.randint(len(options), (), generator=generator))]


def tensors_of(task: Task) -> dict[str, Tensor]:
    """The tensor fields of a task, nested ones by dotted names."""
    return dict(_walk(task, ""))


def _walk(value: Any, prefix: str) -> list[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        return [(prefix, value)]
    if isinstance(value, Task) and dataclasses.is_dataclass(value):
        children = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    elif isinstance(value, dict) and any(isinstance(v, Tensor) for v in value.values()):
        children = value
    else:
        return []
    dot = f"{prefix}." if prefix else ""
    return [found for name, child in children.items() for found in _walk(child, f"{dot}{name}")]


def with_tensors(task: T, tensors: dict[str, Tensor]) -> T:
    """The task with its tensor fields replaced: the inverse of `tensors_of`."""
    return _rebuild(task, tensors, "")


def _rebuild(value: Any, tensors: dict[str, Tensor], prefix: str) -> Any:
    if isinstance(value, Tensor):
        return tensors[prefix]
    if not any(name.startswith(f"{prefix}." if prefix else "") for name in tensors):
        return value
    dot = f"{prefix}." if prefix else ""
    if isinstance(value, Task) and dataclasses.is_dataclass(value):
        fields = [f.name for f in dataclasses.fields(value)]
        changed = {name: _rebuild(getattr(value, name), tensors, dot + name) for name in fields}
        return dataclasses.replace(value, **changed)
    if isinstance(value, dict):
        return {name: _rebuild(child, tensors, dot + name) for name, child in value.items()}
    return value


def structure_of(task: Task) -> Hashable:
    """A key equal for tasks that can run in one batch: class, non-tensor fields, shapes and dtypes of tensors."""
    return _structure(task)


def _structure(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return ("tensor", tuple(value.shape), value.dtype)
    if isinstance(value, Task):
        if not dataclasses.is_dataclass(value):
            return (type(value), id(value))
        return (type(value), *((f.name, _structure(getattr(value, f.name))) for f in dataclasses.fields(value)))
    if isinstance(value, dict):
        return tuple((name, _structure(child)) for name, child in value.items())
    try:
        hash(value)
    except TypeError:
        return ("object", id(value))
    return value


def stack_tasks(tasks: Sequence[Task]) -> dict[str, Tensor]:
    """Tensor fields of tasks of one structure, stacked along a new leading axis.

    Raises:
        ValueError: the tasks differ in more than their tensors.
    """
    first = structure_of(tasks[0])
    for i, task in enumerate(tasks[1:], start=1):
        if structure_of(task) != first:
            raise ValueError(
                "tasks that run in one batch must differ only in their tensor fields, because one vectorised step "
                f"serves them all (make the task a frozen dataclass, or draw its structure in `fix`); got {tasks[0]!r} "
                f"and, at position {i}, {task!r}."
            )
    return tree_stack([tensors_of(task) for task in tasks])

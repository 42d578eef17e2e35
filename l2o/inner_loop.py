"""A rule trains a task: reset, step, unroll; one problem or many at once along a leading axis of lanes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.utils import _pytree

from l2o.compiled import compiled
from l2o.recompute import recomputed
from l2o.rules.base import OptState, UpdateRule
from l2o.tasks.base import Task, stack_tasks, structure_of, with_tensors
from l2o.types import Batch, Params, Theta, device_of, tree_map, tree_stack, tree_to

T = TypeVar("T")

Order: TypeAlias = Literal["full", "first"]
"""How meta-gradients pass an inner step: `first` takes the inner gradient as a constant (Andrychowicz et al., 2016)."""


class InnerState(NamedTuple):
    """A network in training: its parameters and the rule's state."""

    params: Params
    opt: OptState


def inner_step(
    rule: UpdateRule, task: Task, theta: Theta, state: InnerState, batch: Batch, order: Order = "full"
) -> tuple[InnerState, Float[Tensor, ""]]:
    """One training step of `task` by `rule` with parameters `theta`; also the loss before it. Pure."""
    grads, loss = grad_and_value(lambda params: task.loss(params, batch))(state.params)
    if order == "first":
        grads = {name: grad.detach() for name, grad in grads.items()}
    updates, opt = functional_call(rule, theta, (grads, state.opt, state.params, loss))
    params = {name: p + updates[name] for name, p in state.params.items()}
    return InnerState(params, opt), loss


class InnerLoop:
    """One task trained by one rule.

    Arguments:
        order: `full` keeps second derivatives of the task in meta-gradients, `first` drops them.
    """

    def __init__(self, task: Task, rule: UpdateRule, order: Order = "full") -> None:
        _check_order(order)
        self.task, self.rule, self.order = task, rule, order

    def reset(self, generator: Generator, total_steps: int | Tensor | None = None) -> InnerState:
        """A fresh network and rule state."""
        params = self.task.init(generator)
        return InnerState(params, self.rule.init(params, total_steps))

    def unroll(
        self, theta: Theta, state: InnerState, batches: Sequence[Batch]
    ) -> tuple[InnerState, Float[Tensor, " steps"]]:
        """Train on `batches`, one step each; returns the last state and the loss before each step."""
        _check_steps(batches)
        losses = []
        for batch in batches:
            state, loss = inner_step(self.rule, self.task, theta, state, batch, self.order)
            losses.append(loss)
        return state, torch.stack(losses)


class Lanes:
    """Many tasks of one structure trained side by side: every tensor gains a leading axis of lanes.

    They are trained where the rule is: all draws are made on the CPU, by its generators, and brought there.

    Arguments:
        tasks: one task a lane; all of one structure (see `TaskFamily.fix`).
        compile: fuse the inner step with `torch.compile`; the first call of a structure takes 5 to 60 seconds.
        recompute: make each step again in the backward pass in place of storing it; memory then grows with the
            state only.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        rule: UpdateRule,
        order: Order = "full",
        compile: bool = False,
        recompute: bool = False,
    ) -> None:
        _check_order(order)
        self.tasks, self.rule, self.order = tuple(tasks), rule, order
        self.compile, self.recompute = compile, recompute
        self.device = device_of(rule)
        self._tensors = tree_to(stack_tasks(self.tasks), self.device)
        self._template = _Template(self.tasks[0])

    def repeat(self, copies: int) -> Lanes:
        """`copies` times the same lanes, one block after the other."""
        lanes = copy.copy(self)
        lanes.tasks, lanes._tensors = self.tasks * copies, repeat_lanes(self._tensors, copies)
        return lanes

    def replace(self, index: Sequence[int], fresh: Lanes) -> Lanes:
        """The same lanes with those at `index` exchanged for `fresh` ones, in order; only these are stacked anew."""
        if fresh._template != self._template:
            raise ValueError(
                "fresh lanes must have the structure of those they join, because one vectorised step serves them all; "
                f"got {fresh.tasks[0]!r} among {self.tasks[0]!r}."
            )
        lanes = copy.copy(self)
        tasks = dict(enumerate(self.tasks)) | dict(zip(index, fresh.tasks, strict=True))
        lanes.tasks, lanes._tensors = tuple(tasks.values()), replace_lanes(self._tensors, index, fresh._tensors)
        return lanes

    def reset(self, generators: Sequence[Generator], total_steps: Float[Tensor, " lanes"] | None = None) -> InnerState:
        """A fresh network in every lane, lane i drawn from generator i."""
        return self.start([task.init(g) for task, g in zip(self.tasks, generators, strict=True)], total_steps)

    def start(self, params: Sequence[Params], total_steps: Float[Tensor, " lanes"] | None = None) -> InnerState:
        """Begin from given parameters, one tree a lane."""
        stacked = tree_to(tree_stack(params), self.device)
        total_steps = None if total_steps is None else total_steps.to(self.device)
        with torch.no_grad():
            opt = vmap(self.rule.init, in_dims=(0, None if total_steps is None else 0))(stacked, total_steps)
        return InnerState(stacked, tree_map(lambda x: x.contiguous(), opt))

    def unroll(
        self, theta: Theta, state: InnerState, batches: Sequence[Batch]
    ) -> tuple[InnerState, Float[Tensor, "steps lanes"]]:
        """Train every lane on its batches (leading axis: lanes); theta is shared or has a leading axis of lanes."""
        _check_steps(batches)
        axis = theta_axis(self.rule, theta, len(self.tasks))
        step = _lane_step(self.rule, self._template, self.order, axis, self.compile)
        recompute = self.recompute and torch.is_grad_enabled()
        losses = []
        for batch in batches:
            arguments = (theta, self._tensors, state, batch)
            state, loss = recomputed(step, arguments) if recompute else step(*arguments)
            losses.append(loss)
        return state, torch.stack(losses)

    def losses(self, params: Params, batch: Batch) -> Float[Tensor, " lanes"]:
        """The loss of each lane's parameters on its batch."""

        def loss(tensors: dict[str, Tensor], params: Params, batch: Batch) -> Float[Tensor, ""]:
            return with_tensors(self.tasks[0], tensors).loss(params, batch)

        return vmap(loss, in_dims=(_axes(self._tensors), 0, _axes(batch)))(self._tensors, params, batch)

    def sample_batches(self, generator: Generator, num: int, copies: int = 1) -> list[Batch]:
        """Batches for `num` steps of every lane, drawn task by task at once; leading axis: lanes, `copies` times."""
        drawn = [task.sample_batches(generator, num) for task in self.tasks]
        steps = tree_to(tree_stack(drawn * copies, dim=1), self.device)  # copied once, into the order of their use
        return [tree_map(lambda x, i=i: x[i], steps) for i in range(num)]

    def sample_validation_batch(self, generator: Generator) -> Batch:
        """One validation batch a lane."""
        return tree_to(tree_stack([task.sample_validation_batch(generator) for task in self.tasks]), self.device)


def repeat_lanes(tree: T, copies: int) -> T:
    """`copies` times the lanes of a tree, one block after the other."""
    return tree_map(lambda x: x.repeat(copies, *[1] * (x.ndim - 1)), tree) if copies > 1 else tree


def replace_lanes(tree: T, index: Sequence[int], fresh: T) -> T:
    """The tree with lanes `index` taken from `fresh`, in order."""
    where = torch.tensor(index)
    return tree_map(lambda old, new: old.index_copy(0, where.to(old.device), new), tree, fresh)


class _Template:
    """A task as a cache key: equal when the structures are."""

    def __init__(self, task: Task) -> None:
        self.task, self.structure = task, structure_of(task)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Template) and self.structure == other.structure

    def __hash__(self) -> int:
        return hash(self.structure)


@lru_cache(maxsize=128)
def _lane_step(
    rule: UpdateRule, template: _Template, order: Order, theta_axis: int | None, compile: bool
) -> Callable[..., tuple[InnerState, Tensor]]:
    def step(theta: Theta, tensors: dict[str, Tensor], state: InnerState, batch: Batch) -> tuple[InnerState, Tensor]:
        return inner_step(rule, with_tensors(template.task, tensors), theta, state, batch, order)

    def lanes(theta: Theta, tensors: dict[str, Tensor], state: InnerState, batch: Batch) -> tuple[InnerState, Tensor]:
        return vmap(step, in_dims=(theta_axis, _axes(tensors), 0, _axes(batch)))(theta, tensors, state, batch)

    return compiled(lanes, fullgraph=True, bounded=True) if compile else lanes


def _axes(tree: object) -> Any:
    """The leading axis for every tensor of a tree, None (as `vmap` asks) for what is no tensor."""
    return _pytree.tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, tree)


def theta_axis(rule: UpdateRule, theta: Theta, num_lanes: int) -> int | None:
    """0 where theta has a leading axis of lanes, None where all lanes share it."""
    shapes = {name: tuple(p.shape) for name, p in rule.named_parameters() if p.requires_grad or name in theta}
    given = {name: tuple(value.shape) for name, value in theta.items()}
    if given == shapes:
        return None
    if given == {name: (num_lanes, *shape) for name, shape in shapes.items()}:
        return 0
    raise ValueError(
        "theta must have the rule's names and shapes (of what it trains), all as they are or with one leading axis of "
        f"lanes, because a missing one would silently stay the rule's own; got {given} for {shapes} and {num_lanes} "
        "lanes."
    )


def _check_order(order: str) -> None:
    if order not in ("full", "first"):
        raise ValueError(f"order must be 'full' or 'first', the two known ways through an inner step; got {order!r}.")


def _check_steps(batches: Sequence[Batch]) -> None:
    if len(batches) == 0:
        raise ValueError("an unroll needs at least one batch (None for a full-batch problem), one a step; got none.")

"""The problems an estimator has under way: tasks in lanes, how old they are, when they are replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from l2o.estimators.meta_loss import MetaLoss
from l2o.estimators.truncation import Truncation
from l2o.inner_loop import InnerState, Lanes, Order
from l2o.rules.base import UpdateRule
from l2o.tasks.base import Task, TaskFamily
from l2o.types import Theta, draw_seed, seeded, tree_detach, tree_map, tree_stack

T = TypeVar("T")


class ProblemState(NamedTuple):
    """Half-trained networks, by lane. A lane's task is named by its seed, so the state is tensors only.

    inner: parameters and rule state; `copies` lanes for each task (copy-major), see `Problems`.
    structure: seed of the family's structural choices, shared by all tasks.
    seeds: each task's seed.
    age, horizon: inner steps made so far, and to make.
    initial: the loss each task began with.
    """

    inner: InnerState
    structure: Int[Tensor, ""]
    seeds: Int[Tensor, " tasks"]
    age: Int[Tensor, " tasks"]
    horizon: Int[Tensor, " tasks"]
    initial: Float[Tensor, " tasks"]


class Window(NamedTuple):
    """What one window gave: the meta-loss of each copy of each task, mean training loss, which tasks ended."""

    values: Float[Tensor, "copies tasks"]
    losses: Float[Tensor, "steps copies tasks"]
    ended: Bool[Tensor, " tasks"]


@dataclass(frozen=True)
class Problems:
    """Draws tasks from a family, trains them a window at a time, replaces them at their horizon.

    Arguments:
        rule: the rule in training.
        family: where tasks come from.
        num_tasks: tasks at once.
        copies: networks trained on each task with the same batches, each with its own theta (antithetic pairs: 2).
    """

    rule: UpdateRule
    family: TaskFamily
    num_tasks: int = 8
    copies: int = 1
    truncation: Truncation = field(default_factory=Truncation)
    meta_loss: MetaLoss = field(default_factory=MetaLoss)
    order: Order = "full"
    compile: bool = False
    checkpoint: bool = False
    _tasks: dict[tuple[int, int], Task] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.num_tasks < 1:
            raise ValueError(f"num_tasks must be at least 1, because a gradient needs a task; got {self.num_tasks}.")

    def start(self, generator: Generator) -> ProblemState:
        """All lanes with fresh tasks."""
        structure, num = draw_seed(generator), self.num_tasks
        seeds = torch.tensor([draw_seed(generator) for _ in range(num)])
        horizon = self.truncation.draw(num, generator)
        age = self.truncation.offsets(horizon, generator)
        inner, initial = self._fresh(structure, seeds.tolist(), horizon)
        return ProblemState(inner, torch.tensor(structure), seeds, age, horizon, initial)

    def lanes(self, state: ProblemState) -> Lanes:
        """The tasks in their lanes, copy-major."""
        return self._lanes(int(state.structure), state.seeds.tolist(), self.copies)

    def advance(self, theta: Theta, state: ProblemState, generator: Generator) -> tuple[Window, ProblemState]:
        """Train every lane for one window. Differentiable in theta, cut at the window's start.

        Arguments:
            theta: shared by all lanes, or with a leading axis (copies * tasks, copy-major).

        Returns:
            the window, and the state after it with ended tasks not yet replaced (see `renew`).
        """
        lanes, steps = self.lanes(state), self.truncation.window
        tasks = lanes.first(self.num_tasks)  # all copies of a task see the same batches
        batches = [_repeat(batch, self.copies) for batch in tasks.sample_batches(generator, steps)]
        end_batch = _repeat(self.meta_loss.end_batch(tasks, generator), self.copies)
        inner, losses = lanes.unroll(theta, tree_detach(state.inner), batches)
        age = state.age + steps
        ended = age >= state.horizon
        values = self.meta_loss(
            lanes, losses, inner.params, end_batch, state.initial.repeat(self.copies), ended.repeat(self.copies)
        )
        shape = (self.copies, self.num_tasks)
        window = Window(values.view(shape), losses.detach().view(-1, *shape), ended)
        return window, state._replace(inner=tree_detach(inner), age=age)

    def renew(self, state: ProblemState, ended: Bool[Tensor, " tasks"], generator: Generator) -> ProblemState:
        """Replace the tasks that ended by fresh ones."""
        index = ended.nonzero().flatten().tolist()
        if not index:
            return state
        fresh = [draw_seed(generator) for _ in index]
        drawn = self.truncation.draw(len(index), generator)
        inner, initial = self._fresh(int(state.structure), fresh, drawn)
        lanes = torch.tensor([copy * self.num_tasks + i for copy in range(self.copies) for i in index])
        where = torch.tensor(index)
        return state._replace(
            inner=tree_map(lambda old, new: old.index_copy(0, lanes, new), state.inner, inner),
            seeds=state.seeds.index_copy(0, where, torch.tensor(fresh)),
            age=state.age.index_fill(0, where, 0),
            horizon=state.horizon.index_copy(0, where, drawn),
            initial=state.initial.index_copy(0, where, initial),
        )

    def _fresh(
        self, structure: int, seeds: Sequence[int], horizon: Int[Tensor, " n"]
    ) -> tuple[InnerState, Float[Tensor, " n"]]:
        """Inner states (each task's repeated for its copies) and initial losses of new tasks."""
        lanes = self._lanes(structure, seeds, copies=1)
        generators = [seeded(seed + 1) for seed in seeds]
        inner = lanes.reset(generators, horizon.double())
        batch = tree_stack([task.sample_batch(g) for task, g in zip(lanes.tasks, generators, strict=True)])
        with torch.no_grad():
            initial = lanes.losses(inner.params, batch)
        return _repeat(inner, self.copies), initial

    def _lanes(self, structure: int, seeds: Sequence[int], copies: int) -> Lanes:
        tasks = [self._task(structure, seed) for seed in seeds] * copies
        return Lanes(tasks, self.rule, self.order, self.compile, self.checkpoint)

    def _task(self, structure: int, seed: int) -> Task:
        """The task named by two seeds; the latest ones are kept."""
        key = (structure, seed)
        if key not in self._tasks:
            while len(self._tasks) >= 4 * self.num_tasks:
                del self._tasks[next(iter(self._tasks))]
            self._tasks[key] = self.family.fix(seeded(structure)).sample(seeded(seed))
        return self._tasks[key]


def _repeat(tree: T, copies: int) -> T:
    """`copies` times the lanes of a tree, one block after the other."""
    return tree_map(lambda x: x.repeat(copies, *[1] * (x.ndim - 1)), tree) if copies > 1 else tree

"""The problems an estimator has under way: tasks in lanes, how old they are, when they are replaced."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from l2o.estimators.meta_loss import MetaLoss
from l2o.estimators.truncation import Truncation
from l2o.inner_loop import InnerState, Lanes, Order, repeat_lanes, replace_lanes
from l2o.rules.base import UpdateRule
from l2o.tasks.base import TaskFamily
from l2o.types import Theta, device_of, draw_seed, seeded, tree_detach, tree_stack, tree_to


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
    """What one window gave: the meta-loss of each copy of each task, its training losses, which tasks ended."""

    values: Float[Tensor, "copies tasks"]
    losses: Float[Tensor, "steps copies tasks"]
    ended: Bool[Tensor, " tasks"]


class _LanesOf(WeakTensorKeyDictionary):
    """The lanes of every state that is alive, by its `seeds` tensor; not taken along in copies and pickles."""

    def __reduce__(self) -> tuple[type[_LanesOf], tuple[()]]:
        return _LanesOf, ()

    def __deepcopy__(self, memo: object) -> _LanesOf:
        return _LanesOf()


@dataclass(frozen=True)
class Problems:
    """Draws tasks from a family, trains them a window at a time, replaces them at their horizon.

    All tasks share one structure (see `TaskFamily.fix`). It is drawn anew when they have all ended; staggered tasks
    never end together, so then it stays for good, and variety of structure comes from many workers.

    Arguments:
        rule: the rule in training.
        family: where tasks come from.
        num_tasks: tasks at once.
        copies: networks trained on each task with the same batches, each with its own theta (antithetic pairs: 2).
        truncation: windows and horizons.
        meta_loss: what a window is worth.
        order, compile, recompute: as in `Lanes`.
    """

    rule: UpdateRule
    family: TaskFamily
    num_tasks: int = 8
    copies: int = 1
    truncation: Truncation = field(default_factory=Truncation)
    meta_loss: MetaLoss = field(default_factory=MetaLoss)
    order: Order = "full"
    compile: bool = False
    recompute: bool = False
    # only saves time: whatever is missing is made again from the seeds
    _lanes: _LanesOf = field(default_factory=_LanesOf, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.num_tasks < 1:
            raise ValueError(f"num_tasks must be at least 1, because a gradient needs a task; got {self.num_tasks}.")
        if self.copies < 1:
            raise ValueError(f"copies must be at least 1, the network that is trained; got {self.copies}.")

    def start(self, generator: Generator) -> ProblemState:
        """All lanes with fresh tasks."""
        state = self._begin(draw_seed(generator), self.num_tasks, generator)
        return state._replace(age=self.truncation.offsets(state.horizon, generator))

    def lanes(self, state: ProblemState) -> Lanes:
        """The tasks of a state, one lane each."""
        if state.seeds not in self._lanes or self._lanes[state.seeds].device != device_of(self.rule):
            family = self.family.fix(seeded(int(state.structure)))
            tasks = [family.sample(seeded(seed)) for seed in state.seeds.tolist()]
            self._lanes[state.seeds] = Lanes(tasks, self.rule, self.order, self.compile, self.recompute)
        return self._lanes[state.seeds]

    def advance(self, theta: Theta, state: ProblemState, generator: Generator) -> tuple[Window, ProblemState]:
        """Train every lane for one window. Differentiable in theta, cut at the window's start.

        Arguments:
            theta: shared by all lanes, or with a leading axis (copies * tasks, copy-major).

        Returns:
            the window, and the state after it with ended tasks not yet replaced (see `renew`).
        """
        tasks, copies, steps = self.lanes(state), self.copies, self.truncation.window
        state = state._replace(inner=tree_to(state.inner, tasks.device), initial=state.initial.to(tasks.device))
        batches = tasks.sample_batches(generator, steps, copies)
        end_batch = repeat_lanes(self.meta_loss.end_batch(tasks, generator), copies)
        lanes = tasks.repeat(copies)
        inner, losses = lanes.unroll(theta, tree_detach(state.inner), batches)
        age = state.age + steps
        ended = age >= state.horizon
        last = ended.repeat(copies).to(losses.device)
        values = self.meta_loss(lanes, losses, inner.params, end_batch, state.initial.repeat(copies), last)
        shape = (copies, self.num_tasks)
        window = Window(values.view(shape), losses.detach().view(-1, *shape), ended)
        return window, state._replace(inner=tree_detach(inner), age=age)

    def renew(self, state: ProblemState, ended: Bool[Tensor, " tasks"], generator: Generator) -> ProblemState:
        """Replace the tasks that ended by fresh ones."""
        if not ended.any():
            return state
        if ended.all():
            return self._begin(draw_seed(generator), self.num_tasks, generator)
        index = ended.nonzero().flatten().tolist()
        fresh = self._begin(int(state.structure), len(index), generator)
        in_lanes = [copy * self.num_tasks + i for copy in range(self.copies) for i in index]
        renewed = state._replace(
            inner=replace_lanes(state.inner, in_lanes, fresh.inner),
            seeds=replace_lanes(state.seeds, index, fresh.seeds),
            age=replace_lanes(state.age, index, fresh.age),
            horizon=replace_lanes(state.horizon, index, fresh.horizon),
            initial=replace_lanes(state.initial, index, fresh.initial),
        )
        self._lanes[renewed.seeds] = self.lanes(state).replace(index, self.lanes(fresh))
        return renewed

    def _begin(self, structure: int, num: int, generator: Generator) -> ProblemState:
        """`num` tasks of one structure before their first step; a task's seed also gives its initial network."""
        family = self.family.fix(seeded(structure))
        seeds = torch.tensor([draw_seed(generator) for _ in range(num)])
        horizon = self.truncation.draw(num, generator)
        generators = [seeded(seed) for seed in seeds.tolist()]
        tasks = [family.sample(g) for g in generators]
        lanes = Lanes(tasks, self.rule, self.order, self.compile, self.recompute)
        self._lanes[seeds] = lanes
        inner = lanes.reset(generators, horizon.double())
        drawn = tree_stack([task.sample_batch(g) for task, g in zip(tasks, generators, strict=True)])
        batch = tree_to(drawn, lanes.device)
        with torch.no_grad():
            initial = lanes.losses(inner.params, batch)
        age = torch.zeros_like(horizon)
        return ProblemState(repeat_lanes(inner, self.copies), torch.tensor(structure), seeds, age, horizon, initial)

"""Problems and rules so small that what they must give can be worked out by hand."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from l2o.estimators import Problems, Truncation
from l2o.inner_loop import InnerLoop
from l2o.rules.base import OptState, UpdateRule, zero_step
from l2o.tasks.base import Task, TaskFamily
from l2o.types import Batch, Params, Theta


class LearnedMomentum(UpdateRule):
    """SGD with momentum; theta: the logarithm of the learning rate, the logit of the decay."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.log_lr = torch.nn.Parameter(torch.tensor(lr, dtype=torch.float64).log())
        self.logit_decay = torch.nn.Parameter(torch.tensor(0.0, dtype=torch.float64))

    def init(self, params: Params, total_steps: int | Tensor | None = None) -> OptState:
        # something that every step hands on unchanged, and an integer, as real rules have
        shared = {"scale": torch.ones((), dtype=torch.float64)}
        return OptState(zero_step(params), {name: {"m": torch.zeros_like(p)} for name, p in params.items()}, shared)

    def forward(
        self, grads: Params, state: OptState, params: Params, loss: Tensor | None = None
    ) -> tuple[Params, OptState]:
        decay = torch.sigmoid(self.logit_decay)
        m = {name: decay * state.slots[name]["m"] + grad for name, grad in grads.items()}
        updates = {name: -state.shared["scale"] * torch.exp(self.log_lr) * m[name] for name in m}
        return updates, OptState(state.step + 1, {name: {"m": m[name]} for name in m}, state.shared)


@dataclass(frozen=True)
class Bowl(Task):
    """loss(w) = log(1 + sum(curvature * w^2) / 2), from a given start: nothing is drawn."""

    curvature: Tensor
    start: Tensor

    def init(self, generator: Generator) -> Params:
        return {"w": self.start.clone()}

    def sample_batch(self, generator: Generator) -> Batch:
        return None

    def loss(self, params: Params, batch: Batch) -> Tensor:
        return torch.log1p((self.curvature * params["w"].square()).sum() / 2)


BOWL = Bowl(
    torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64), start=torch.tensor([1.0, -1.5, 0.5], dtype=torch.float64)
)


@dataclass(frozen=True)
class Regression(Task):
    """Noisy linear regression: batches, validation batches and initial parameters are drawn."""

    truth: Tensor

    def init(self, generator: Generator) -> Params:
        w = torch.randn(len(self.truth), generator=generator, dtype=torch.float64)
        return {"w": w, "b": torch.zeros((), dtype=torch.float64)}

    def sample_batch(self, generator: Generator) -> Batch:
        x = torch.randn(4, len(self.truth), generator=generator, dtype=torch.float64)
        return {"x": x, "y": x @ self.truth + 1.0}

    def sample_validation_batch(self, generator: Generator) -> Batch:
        batch = self.sample_batch(generator)
        return batch | {"y": batch["y"] + 100.0}  # so that nobody confuses it with training

    def loss(self, params: Params, batch: Batch) -> Tensor:
        return (batch["x"] @ params["w"] + params["b"] - batch["y"]).square().mean()


@dataclass(frozen=True)
class Regressions(TaskFamily):
    """Regressions of one dimension."""

    dim: int = 3

    def sample(self, generator: Generator) -> Task:
        return Regression(torch.randn(self.dim, generator=generator, dtype=torch.float64))


@dataclass(frozen=True)
class Halved(Task):
    """A task within a task: half its loss, in coordinates that are shifted."""

    inside: Task
    shift: dict[str, Tensor]

    def init(self, generator: Generator) -> Params:
        return self.inside.init(generator)

    def sample_batch(self, generator: Generator) -> Batch:
        return self.inside.sample_batch(generator)

    def loss(self, params: Params, batch: Batch) -> Tensor:
        return self.inside.loss({name: p + self.shift["all"] for name, p in params.items()}, batch) / 2


@dataclass(frozen=True)
class HalvedRegressions(TaskFamily):
    """Nested tasks, whose tensors stand in a field of a field and in a dict."""

    def sample(self, generator: Generator) -> Task:
        shift = {"all": torch.randn((), generator=generator, dtype=torch.float64)}
        return Halved(Regressions().sample(generator), shift)


def parameter(*values: float, grad: float | None = 1.0, dtype: torch.dtype = torch.float32) -> torch.nn.Parameter:
    """A parameter of these values, with this number for its gradient everywhere."""
    p = torch.nn.Parameter(torch.tensor(values, dtype=dtype))
    p.grad = None if grad is None else torch.full_like(p, grad)
    return p


def theta_of(rule: UpdateRule) -> Theta:
    """Theta of a rule as leaves of a graph."""
    return {name: p.detach().clone().requires_grad_() for name, p in rule.named_parameters()}


def bowls(rule: UpdateRule, family: TaskFamily, window: int, horizon: int, num_tasks: int, **more: Any) -> Problems:
    """Problems with one fixed horizon."""
    return Problems(rule, family, num_tasks, truncation=Truncation(window, horizon), **more)


def exact_gradient(rule: UpdateRule, task: Task, horizon: int) -> Theta:
    """The gradient of the mean loss of a full unroll of a task without randomness, by plain autograd."""
    theta, loop = theta_of(rule), InnerLoop(task, rule)
    _, losses = loop.unroll(theta, loop.reset(torch.Generator()), [None] * horizon)
    found = torch.autograd.grad(losses.mean(), list(theta.values()))
    return dict(zip(theta, found, strict=True))


def mean_and_error(draw: Callable[[], Theta], num: int) -> tuple[Tensor, Tensor]:
    """Mean of `num` draws of a gradient, all names in one vector, and its standard error."""
    draws = torch.stack([torch.cat([g.flatten() for g in draw().values()]) for _ in range(num)])
    return draws.mean(dim=0), draws.std(dim=0) / num**0.5


def flat(theta: Theta) -> Tensor:
    """All of a theta in one vector."""
    return torch.cat([value.flatten() for value in theta.values()])

"""Planning by gradients, with any update rule: actions are the parameters, the search may be a learned optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.func import functional_call, grad_and_value, vmap

from l2o.agents.environments.base import State
from l2o.agents.planning.model import Model
from l2o.agents.planning.planner import Plan, Planner, _begin
from l2o.inner_loop import InnerState
from l2o.rules.base import UpdateRule
from l2o.tasks.base import Task, TaskFamily
from l2o.types import Batch, Params

ROLLOUTS = 3
"""That a gradient counts as: a pass forward, and one back that costs two."""

EDGE = 0.999
"""Of the limit; where a plan is nearer to it its logit begins here."""


@dataclass(frozen=True)
class GradientPlanner(Planner):
    """Descends the model's cost in the logits u of actions limit * tanh(u), each lane by itself.

    Arguments:
        rule: how logits move: `Adam(lr=...)`, or a rule that was meta-trained on plans (see `PlanFamily`).
        best: return the cheapest plan on the way, which the costs that gradients come with tell; else the last.
    """

    rule: UpdateRule
    best: bool = True

    def plan(
        self,
        model: Model,
        state: State,
        budget: int,
        generator: Generator,
        first: Float[Tensor, "lanes horizon a"] | None = None,
    ) -> Plan:
        num_steps = (budget - 1) // ROLLOUTS  # the last plan is judged too
        if num_steps < 1:
            raise ValueError(f"budget must allow a gradient and a rollout, {ROLLOUTS + 1}; got {budget}.")
        begin = _begin(model, state, first) / model.limit
        logits = {"logits": torch.atanh(begin.clamp(-EDGE, EDGE))}
        theta = {name: p.detach() for name, p in self.rule.named_parameters()}
        with torch.no_grad():
            total = torch.full((len(begin),), float(num_steps))
            learner = InnerState(logits, vmap(self.rule.init)(logits, total))

        def update(params: Params, opt, grads: Params, loss: Tensor):  # type: ignore[no-untyped-def]
            return functional_call(self.rule, theta, (grads, opt, params, loss))

        found = Plan(_actions(logits["logits"], model), torch.full((len(begin),), torch.inf))
        for _ in range(num_steps):
            grads, cost = _slopes(model, state, learner.params["logits"])
            found = _better(found, learner.params["logits"], cost, model, self.best)
            with torch.no_grad():
                updates, opt = vmap(update)(learner.params, learner.opt, {"logits": grads}, cost)
            learner = InnerState({"logits": learner.params["logits"] + updates["logits"]}, opt)
        with torch.no_grad():
            cost = model.cost(state, _actions(learner.params["logits"], model))
        return _better(found, learner.params["logits"], cost, model, self.best)


def _slopes(model: Model, state: State, logits: Tensor) -> tuple[Tensor, Float[Tensor, " lanes"]]:
    """Gradients of each lane's cost, and the costs."""

    def total(u: Tensor) -> tuple[Tensor, Tensor]:
        cost = model.cost(state, _actions(u, model))
        return cost.sum(), cost

    grads, (_, cost) = grad_and_value(total, has_aux=True)(logits)
    return grads.nan_to_num(0.0, 0.0, 0.0), cost


def _actions(logits: Float[Tensor, "*lanes horizon a"], model: Model) -> Float[Tensor, "*lanes horizon a"]:
    return model.limit * torch.tanh(logits)


def _better(found: Plan, logits: Tensor, cost: Tensor, model: Model, best: bool) -> Plan:
    """The cheaper plan of each lane, or the newer one."""
    cheaper = (cost < found.cost) if best else torch.ones_like(cost, dtype=torch.bool)
    actions = torch.where(cheaper[:, None, None], _actions(logits, model), found.actions)
    return Plan(actions, torch.where(cheaper, cost, found.cost))


@dataclass(frozen=True)
class PlanTask(Task):
    """One plan as a task: what a rule learns on that is to plan within a few steps.

    Arguments:
        make: a model from a world with one lane; a module-level function.
        world: tensors of the model, without an axis of lanes.
        state: where the plan begins, likewise.
        spread: deviation of the logits that a plan begins with; 0 begins at rest.
    """

    make: Callable[[dict[str, Tensor]], Model]
    world: dict[str, Tensor]
    state: dict[str, Tensor]
    spread: float = 0.0

    def init(self, generator: Generator) -> Params:
        model = self._model()
        noise = torch.randn(model.horizon, model.action_size, generator=generator)
        return {"logits": self.spread * noise}

    def sample_batch(self, generator: Generator) -> Batch:
        return None

    def loss(self, params: Params, batch: Batch) -> Float[Tensor, ""]:
        model = self._model()
        state = {name: x.unsqueeze(0) for name, x in self.state.items()}
        return model.cost(state, _actions(params["logits"].unsqueeze(0), model)).squeeze(0)

    def _model(self) -> Model:
        return self.make({name: x.unsqueeze(0) for name, x in self.world.items()})


@dataclass(frozen=True)
class PlanFamily(TaskFamily):
    """Random worlds to plan in.

    Arguments:
        make: see `PlanTask`.
        sample_world: draws so many worlds, and the states that plans begin in.
        spread: see `PlanTask`.
    """

    make: Callable[[dict[str, Tensor]], Model]
    sample_world: Callable[[Generator, int], tuple[dict[str, Tensor], dict[str, Tensor]]]
    spread: float = 0.0

    def sample(self, generator: Generator) -> PlanTask:
        world, state = self.sample_world(generator, 1)
        one = ({name: x[0] for name, x in tree.items()} for tree in (world, state))
        return PlanTask(self.make, *one, self.spread)

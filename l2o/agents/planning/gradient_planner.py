"""Planning by gradients, with any update rule: actions are the parameters, the search may be a learned optimizer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.func import functional_call, grad_and_value, vmap

from l2o.agents.environments.base import State
from l2o.agents.planning.model import Model
from l2o.agents.planning.planner import Plan, Planner, first_actions
from l2o.inner_loop import InnerState
from l2o.rules.base import UpdateRule
from l2o.types import Params

ROLLOUTS = 3
"""That a gradient counts as: a pass forward, and one back that costs two."""

EDGE = 0.999
"""Of the limit; where a plan is nearer to it its logit begins here."""


@dataclass(frozen=True)
class GradientPlanner(Planner):
    """Descends the model's cost in the logits u of actions limit * tanh(u), each lane by itself.

    Logits are one vector a lane: their order is the plan's affair, and rules for matrices would mix steps of time.

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
        logits = {"logits": logits_of(first_actions(model, state, first), model)}
        theta = {name: p.detach() for name, p in self.rule.named_parameters()}
        with torch.no_grad():
            total = torch.full((len(logits["logits"]),), float(num_steps))
            learner = InnerState(logits, vmap(self.rule.init)(logits, total))

        def update(params: Params, opt, grads: Params, loss: Tensor):  # type: ignore[no-untyped-def]
            return functional_call(self.rule, theta, (grads, opt, params, loss))

        found = Plan(actions_of(logits["logits"], model), torch.full_like(total, torch.inf))
        for _ in range(num_steps):
            grads, cost = _slopes(model, state, learner.params["logits"])
            found = _better(found, learner.params["logits"], cost, model, self.best)
            with torch.no_grad():
                updates, opt = vmap(update)(learner.params, learner.opt, {"logits": grads}, cost)
            learner = InnerState({"logits": learner.params["logits"] + updates["logits"]}, opt)
        with torch.no_grad():
            cost = model.cost(state, actions_of(learner.params["logits"], model))
        return _better(found, learner.params["logits"], cost, model, self.best)


def _slopes(model: Model, state: State, logits: Tensor) -> tuple[Tensor, Float[Tensor, " lanes"]]:
    """Gradients of each lane's cost, and the costs."""

    def total(u: Tensor) -> tuple[Tensor, Tensor]:
        cost = model.cost(state, actions_of(u, model))
        return cost.sum(), cost

    grads, (_, cost) = grad_and_value(total, has_aux=True)(logits)
    return grads.nan_to_num(0.0, 0.0, 0.0), cost


def logits_of(actions: Float[Tensor, "lanes horizon a"], model: Model) -> Float[Tensor, "lanes n"]:
    """What actions are searched in; those at the limit begin a little within."""
    return torch.atanh((actions / model.limit).clamp(-EDGE, EDGE)).flatten(1)


def actions_of(logits: Float[Tensor, "lanes n"], model: Model) -> Float[Tensor, "lanes horizon a"]:
    """The plan that logits stand for."""
    return model.limit * torch.tanh(logits).unflatten(-1, (model.horizon, model.action_size))


def _better(found: Plan, logits: Tensor, cost: Tensor, model: Model, best: bool) -> Plan:
    """The cheaper plan of each lane, or the newer one."""
    cheaper = (cost < found.cost) if best else torch.ones_like(cost, dtype=torch.bool)
    actions = torch.where(cheaper[:, None, None], actions_of(logits, model), found.actions)
    return Plan(actions, torch.where(cheaper, cost, found.cost))

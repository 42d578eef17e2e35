"""A learned model: an ensemble of perceptrons that say how observations change, and what steps cost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.func import vmap

from l2o.agents.environments.base import Box, Environment, State
from l2o.agents.episodes import Rollout
from l2o.agents.planning.model import Model
from l2o.tasks.nets import apply_mlp, init_mlp
from l2o.types import Params, tree_stack


@dataclass(frozen=True, eq=False)
class WorldModel(Model):
    """Predicts with every member of an ensemble (Chua et al., 2018, https://arxiv.org/abs/1805.12114, without noise).

    Its state is {"observation"}; the change and the cost are the members' means, plus `caution` times the deviation of
    their costs: plans then keep to where members agree.

    Arguments:
        environment: whose steps were learned; it gives sizes only.
        params: of all members, stacked.
        centre, scale: of observation and action; what changes have for a unit stands in `unit`.
        horizon: steps of a plan.
        caution: see above.
    """

    environment: Environment
    params: Params
    centre: Float[Tensor, " inputs"]
    scale: Float[Tensor, " inputs"]
    unit: Float[Tensor, " outputs"]
    horizon: int
    caution: float = 0.0

    @property
    def action_size(self) -> int:  # type: ignore[override]
        """Of the environment's box."""
        return _box(self.environment).size

    @property
    def limit(self) -> float:  # type: ignore[override]
        """Of the environment's box."""
        return _box(self.environment).limit

    def step(self, state: State, action: Float[Tensor, "lanes a"]) -> tuple[State, Float[Tensor, " lanes"]]:
        seen = state["observation"]
        inputs = (torch.cat([seen, action.clamp(-self.limit, self.limit)], dim=-1) - self.centre) / self.scale
        outputs = self.unit * vmap(_forward, in_dims=(0, None))(self.params, inputs)
        cost = outputs[..., -1]
        doubt = self.caution * (cost.var(dim=0, correction=0) + 1e-12).sqrt() if self.caution else 0.0
        return {"observation": seen + outputs[..., :-1].mean(dim=0)}, cost.mean(dim=0) + doubt


def fit_world_model(
    environment: Environment,
    steps: Rollout,
    horizon: int,
    generator: Generator,
    num_members: int = 4,
    hidden: tuple[int, ...] = (64, 64),
    num_updates: int = 1000,
    batch_size: int = 256,
    learning_rate: float = 2e-3,
    caution: float = 0.0,
) -> WorldModel:
    """Learn from steps that somebody made, each member from batches of its own, by Adam with a falling rate.

    Arguments:
        steps: of any shape; episodes' ends are left out.
        horizon, caution: of the model.

    Raises:
        ValueError: fewer steps than a batch, or actions that are not of a box.
    """
    _box(environment)
    keep = ~steps.terminated
    seen, after, action = (x[keep] for x in (steps.observation, steps.next_observation, steps.action))
    if len(seen) < batch_size:
        raise ValueError(f"a model needs {batch_size} steps, a batch, to learn from; got {len(seen)}.")
    inputs, outputs = torch.cat([seen, action], -1), torch.cat([after - seen, -steps.reward[keep].unsqueeze(-1)], -1)
    centre, scale = inputs.mean(dim=0), inputs.std(dim=0).clamp(min=1e-3)
    unit = outputs.square().mean(dim=0).sqrt().clamp(min=1e-6)
    x, y = (inputs - centre) / scale, outputs / unit
    sizes = (x.shape[-1], *hidden, y.shape[-1])
    params = tree_stack([init_mlp(generator, sizes, 2.0**0.5) for _ in range(num_members)])
    leaves = {name: p.requires_grad_() for name, p in params.items()}
    optimizer = torch.optim.Adam(leaves.values())
    for i in range(num_updates):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1.0 - i / num_updates)
        index = torch.randint(len(x), (num_members, batch_size), generator=generator)
        with torch.enable_grad():
            loss = (vmap(_forward)(leaves, x[index]) - y[index]).square().mean(dim=(1, 2)).sum()
            grads = torch.autograd.grad(loss, list(leaves.values()))
        for p, g in zip(leaves.values(), grads, strict=True):
            p.grad = g
        optimizer.step()
    fixed = {name: p.detach() for name, p in leaves.items()}
    return WorldModel(environment, fixed, centre, scale, unit, horizon, caution)


def _forward(params: Params, x: Float[Tensor, "n inputs"]) -> Float[Tensor, "n outputs"]:
    return apply_mlp(params, x, "gelu")


def _box(environment: Environment) -> Box:
    space = environment.action_space
    if not isinstance(space, Box):
        raise ValueError(f"a model to plan with needs actions of a box; {environment!r} has {space!r}.")
    return space

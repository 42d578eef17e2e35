"""Meta-SGD (Li et al., 2017, https://arxiv.org/abs/1707.09835): a learned rate for every coordinate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from l2o.learners.base import Fast, Learner
from l2o.rules.base import OptState, UpdateRule, check, zero_step
from l2o.tasks.episodes import Examples
from l2o.types import Params

Shapes = Mapping[str, Sequence[int]]
"""Shapes of fast variables by name."""


class MetaSGD(UpdateRule):
    """update = -rate * gradient, a rate for each coordinate of each fast variable. Rates may become negative.

    Bound to the fast variables of one learner, by their names and shapes.

    Arguments:
        shapes: of the fast variables, see `shapes_of`.
        lr: all rates at first; two numbers to draw each from between them (the paper: 0.005 and 0.1).
    """

    def __init__(self, shapes: Shapes, lr: float | Sequence[float] = 0.01) -> None:
        super().__init__()
        bounds = (lr, lr) if isinstance(lr, int | float) else tuple(lr)
        holds = len(bounds) == 2 and 0 <= bounds[0] <= bounds[-1]
        check(holds, "lr must be a rate >= 0, or two from low to high, because steps begin downhill", lr=lr)
        low, high = bounds
        self.shapes, self.nominal_lr = in_order(shapes), (low + high) / 2
        self.rates = nn.ParameterList(
            nn.Parameter(low + (high - low) * torch.rand(shape)) for shape in self.shapes.values()
        )

    def init(self, params: Params, total_steps: int | Tensor | None = None) -> OptState:
        check_shapes(self.shapes, params)
        return OptState(zero_step(params), {name: {} for name in params}, {})

    def forward(
        self, grads: Params, state: OptState, params: Params, loss: Float[Tensor, ""] | None = None
    ) -> tuple[Params, OptState]:
        rates = dict(zip(self.shapes, self.rates, strict=True))
        updates = {name: -rates[name].to(p.dtype) * grads[name] for name, p in params.items()}
        return updates, OptState(state.step + 1, state.slots, state.shared)


def shapes_of(learner: Learner, support: Examples | None = None) -> dict[str, list[int]]:
    """The shapes of a learner's fast variables.

    Arguments:
        support: a support set to look at, for learners whose fast variables depend on one.
    """
    with torch.no_grad():
        fast: Fast = learner.start(support if support is not None else Examples(torch.zeros(0), torch.zeros(0)))
    return {name: list(value.shape) for name, value in fast.items()}


def in_order(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The shapes by name in alphabetical order: a file does not keep another."""
    return {name: tuple(shapes[name]) for name in sorted(shapes)}


def check_shapes(shapes: Mapping[str, tuple[int, ...]], params: Params) -> None:
    """Raise ValueError unless the fast variables are those that a rule was made for."""
    came = {name: tuple(value.shape) for name, value in params.items()}
    if came != dict(shapes):
        raise ValueError(
            "fast variables must have the names and shapes that the rule was made for, because it has parameters for "
            f"each of them; it knows {dict(shapes)}, got {came}."
        )

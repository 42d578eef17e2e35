"""How parameters move: the interface of every update rule, hand-designed or learned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from l2o.configured import Configured
from l2o.types import Params


class OptState(NamedTuple):
    """State of any rule: one type, so the drop-in, checkpoints and Ray need not know the rule.

    step: number of updates made so far.
    slots: per parameter name, the rule's tensors for that parameter.
    shared: tensors that belong to the whole network (a loss average, the length of the run).
    """

    step: Int[Tensor, ""]
    slots: dict[str, dict[str, Tensor]]
    shared: dict[str, Tensor]


class UpdateRule(Configured, ABC):
    """A pure map (gradients, state, parameters, loss) -> (updates, state); its own parameters are theta.

    Updates are added: `params[name] + updates[name]`. Parameters may have any shape; a rule treats every tensor
    alike whatever its name, so names and their order carry no meaning. Under `torch.func.vmap` all arguments gain a
    leading axis of tasks or particles. A fresh rule is harmless: no step is larger than `nominal_lr` times a few.

    State and arithmetic are float32 where parameters have less (see `working`); updates have the parameters' dtype.

    Attributes:
        needs_loss: whether `forward` makes use of the loss (it must work without).
        nominal_lr: the step size that the drop-in's `lr=1.0` stands for. Weight decay `w` of the drop-in shrinks a
            parameter by `lr * nominal_lr * w` a step, as AdamW does at `nominal_lr`.
        large_slots: names of the slots that hold numbers for each coordinate, which the drop-in may keep in bfloat16.
        defers: whether `forward` takes those slots in bfloat16 too, and may return them as they were, to be brought up
            to date in place by whoever asked for that (see `l2o.rules.coordinates.deferring`). A rule around another
            must hand on the other's state as it is, if it sets this.
    """

    needs_loss: bool = False
    nominal_lr: float = 1e-3
    large_slots: tuple[str, ...] = ()
    defers: bool = False

    @abstractmethod
    def init(self, params: Params, total_steps: int | Tensor | None = None) -> OptState:
        """State before the first step.

        Arguments:
            total_steps: planned length of the run, for rules that follow a schedule; None if unknown.
        """

    @abstractmethod
    def forward(
        self, grads: Params, state: OptState, params: Params, loss: Float[Tensor, ""] | None = None
    ) -> tuple[Params, OptState]:
        """One step: updates (same names and shapes as `params`) and the next state."""


def zero_step(params: Params) -> Int[Tensor, ""]:
    """The step counter before the first step, on the parameters' device."""
    return torch.zeros((), dtype=torch.int64, device=next(iter(params.values())).device)


def working(x: Shaped[Tensor, "*p"]) -> Float[Tensor, "*p"]:
    """`x` in the precision that a rule works in: float32, or more where `x` has more."""
    return x if x.dtype == torch.float32 else x.to(torch.promote_types(x.dtype, torch.float32))


def zero_count(p: Float[Tensor, "*p"]) -> Float[Tensor, ""]:
    """A tensor's own step counter, for bias corrections: parameters that join a run later start at zero too."""
    return working(p).new_zeros(())


def run_length(params: Params, total_steps: int | Tensor | None) -> Float[Tensor, ""]:
    """The planned length of the run as rules keep it, in the precision that they work in; 0 if it is not known."""
    p = working(next(iter(params.values())))
    return torch.as_tensor(0.0 if total_steps is None else total_steps, dtype=p.dtype, device=p.device)


def check(holds: bool, must: str, **came: Any) -> None:
    """Raise a ValueError saying what must hold, why, and what came, unless it holds."""
    if not holds:
        raise ValueError(f"{must}; got {', '.join(f'{name}={value!r}' for name, value in came.items())}.")


def check_mlp(hidden_size: int, num_layers: int) -> None:
    """Raise a ValueError unless an MLP of such layers has something to learn."""
    check(hidden_size >= 1 and num_layers >= 1, "an MLP needs a hidden unit", size=hidden_size, layers=num_layers)


def check_scales(step_scale: float, max_gradient: float) -> None:
    """Raise a ValueError unless steps of such a size, from gradients so clipped, move something."""
    check(step_scale > 0.0, "step_scale must be > 0, or nothing moves", step_scale=step_scale)
    check(max_gradient > 0.0, "max_gradient must be > 0, or nothing moves", max_gradient=max_gradient)

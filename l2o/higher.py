"""LearnedOptimizer under `higher` (Grefenstette et al., 2019, https://arxiv.org/abs/1910.01727).

After `import l2o.higher`

    with higher.innerloop_ctx(model, LearnedOptimizer(model.parameters(), rule)) as (fmodel, diffopt):
        diffopt.step(loss)

unrolls the rule differentiably. Meta-gradients reach theta in one of two ways, both exact:

- nothing said: the rule's own parameters (`optimizer.rule`, not a copy) take the gradients;
- `override={"theta": [theta]}`, theta = {name: tensor} with all the rule's parameters, for theta that is computed,
  perturbed or kept elsewhere. As with other settings, given to `innerloop_ctx` it holds for all steps, given to
  `diffopt.step` from that step on.

Do not put the rule into a parameter group: `higher` copies the groups, and the copy's gradient is zero, silently.
`override={"lr": [...]}` and `{"weight_decay": [...]}` are differentiable as well. Steps are taken even if not finite.
"""

from __future__ import annotations

from typing import Any

import higher
import torch
from higher.optim import DifferentiableOptimizer
from torch import Tensor
from torch.func import functional_call

from l2o.optim import LearnedOptimizer
from l2o.optim.members import as_real
from l2o.optim.state import Packed, gather, pack
from l2o.types import Theta


class DifferentiableLearnedOptimizer(DifferentiableOptimizer):
    """Takes the steps of a LearnedOptimizer, starting from its state, with a graph through them."""

    def __init__(self, other: LearnedOptimizer, *args: Any, **kwargs: Any) -> None:
        super().__init__(other, *args, **kwargs)
        self.rule, self.total_steps = other.acting_rule, other.total_steps
        self._loss: Tensor | None = None

    def step(self, loss: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As every differentiable optimizer's; the rule sees the loss, and meta-gradients pass through it."""
        self._loss = loss
        return super().step(loss, *args, **kwargs)

    def _update(self, grouped_grads: list[list[Tensor | None]], **kwargs: Any) -> None:
        with torch.set_grad_enabled(self._track_higher_grads):
            places = {
                f"{i}.{j}": (i, j, grad)
                for i, grads in enumerate(grouped_grads)
                for j, grad in enumerate(grads)
                if grad is not None and grad.numel()
            }
            if places:
                self._move(places)

    def _move(self, places: dict[str, tuple[int, int, Tensor]]) -> None:
        """One call of the rule for all parameters with gradients."""
        dtype = self._dtype()
        params, grads = {}, {}
        for key, (i, j, grad) in places.items():
            params[key] = as_real(self.param_groups[i]["params"][j], dtype)
            grads[key] = as_real(-grad if self.param_groups[i]["maximize"] else grad, dtype)
        packed = {key: self.state[i][j] for key, (i, j, _) in places.items()}
        state = gather(self.rule, params, packed, self._any_state(), self.total_steps)
        theta = {key: x.to(dtype) if x.is_floating_point() else x for key, x in self._theta().items()}
        updates, state = functional_call(self.rule, theta, (grads, state, params, self._signed_loss(dtype)))
        for key, (i, j, _) in places.items():
            self.state[i][j] = pack(key, state)
            group = self.param_groups[i]
            step = updates[key] - self.rule.nominal_lr * group["weight_decay"] * params[key]
            p = group["params"][j]
            moved = params[key] + group["lr"] * step
            group["params"][j] = torch.view_as_complex(moved).to(p.dtype) if p.is_complex() else moved.to(p.dtype)

    def _theta(self) -> Theta:
        given = [group.get("theta") for group in self.param_groups]
        if any(theta is not given[0] for theta in given):
            raise ValueError("theta must be one for all parameter groups, because one call of the rule moves them all.")
        own = {**dict(self.rule.named_parameters()), **dict(self.rule.named_buffers())}
        if given[0] is None:
            return own
        if given[0].keys() != dict(self.rule.named_parameters()).keys():
            raise ValueError(
                f"theta must hold all parameters of the rule, {sorted(dict(self.rule.named_parameters()))}; got "
                f"{sorted(given[0])}."
            )
        return own | given[0]

    def _signed_loss(self, dtype: torch.dtype) -> Tensor | None:
        signs = {bool(group["maximize"]) for group in self.param_groups}
        if self._loss is None or len(signs) > 1:
            return None
        loss = self._loss.to(dtype).reshape(())
        return -loss if signs == {True} else loss

    def _dtype(self) -> torch.dtype:
        dtypes = {p.dtype for group in self.param_groups for p in group["params"]}
        return torch.float64 if dtypes & {torch.float64, torch.complex128} else torch.float32

    def _any_state(self) -> Packed | None:
        return next((packed for group in self.state for packed in group.values() if packed), None)


higher.register_optim(LearnedOptimizer, DifferentiableLearnedOptimizer)

"""One outer step: estimates from the pool, averaged, clipped, handed to a torch optimizer."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from l2o.distributed.pool import WorkerPool
from l2o.estimators.base import is_finite, mean_gradient
from l2o.types import Theta


def theta_of(module: nn.Module) -> Theta:
    """Theta of a module: its trained parameters (`requires_grad`) by name, detached, in the module's memory."""
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


class MetaTrainer:
    """Trains the parameters of a module with the meta-gradients of a pool.

    Arguments:
        module: what is meta-trained: an update rule, a learner, any module whose parameters are theta.
        pool: where estimates come from.
        optimizer: the outer optimizer over the module's parameters: any torch optimizer, a learned one too.
        schedule: a torch learning-rate schedule, stepped after each outer step that was made.
        max_grad_norm: the averaged meta-gradient is scaled down to this norm; None leaves it.
    """

    def __init__(
        self,
        module: nn.Module,
        pool: WorkerPool,
        optimizer: Optimizer,
        schedule: LRScheduler | None = None,
        max_grad_norm: float | None = 1.0,
    ) -> None:
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be positive, or None for no clipping; got {max_grad_norm}.")
        self.module, self.pool, self.optimizer, self.schedule = module, pool, optimizer, schedule
        self.max_grad_norm = max_grad_norm
        self.num_steps = 0
        self.num_skipped = 0
        self.entry: dict[str, Any] = {}
        """What the last step was made of, for the ledger: plain values."""

    def step(self) -> dict[str, float]:
        """One outer step, of the estimates that are finite. If none is it is skipped; theta then stays as it is."""
        estimates = self.pool.estimate(theta_of(self.module))
        finite = [is_finite(estimate.gradient) for estimate in estimates]
        used = [one for one, good in zip(estimates, finite, strict=True) if good] or estimates
        gradient = mean_gradient([one.gradient for one in used], [one.weight for one in used])
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                parameter.grad = _laid_out_as(parameter, gradient.grads[name])
        limit = float("inf") if self.max_grad_norm is None else self.max_grad_norm
        norm = float(nn.utils.clip_grad_norm_(self.module.parameters(), limit))
        rate = float(self.optimizer.param_groups[0]["lr"])
        if math.isfinite(norm):
            self.optimizer.step()
            if self.schedule is not None:
                self.schedule.step()
        else:
            self.num_skipped += 1
        self.optimizer.zero_grad()
        self.num_steps += 1
        self.entry = {
            "step": self.num_steps,
            "used": [[e.worker, e.number, e.staleness] for e, good in zip(estimates, finite, strict=True) if good],
            "skipped": not math.isfinite(norm),
            "not_finite": [[e.worker, e.number] for e, good in zip(estimates, finite, strict=True) if not good],
            "events": self.pool.events(),
        }
        metrics = {name: float(value) for name, value in gradient.metrics.items()}
        told = {"meta_loss": float(gradient.loss), "grad_norm": norm, "lr": rate, "skipped": self.num_skipped}
        told["not_finite"] = finite.count(False)
        return told | metrics | {f"pool/{name}": value for name, value in self.pool.metrics().items()}

    def state_dict(self) -> dict[str, Any]:
        """All that makes a resumed run equal the uninterrupted one, as a tree of tensors and numbers."""
        return {
            "num_steps": self.num_steps,
            "num_skipped": self.num_skipped,
            "module": dict(self.module.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "pool": self.pool.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            ValueError: it is the state of another module or another pool.
        """
        try:
            self.module.load_state_dict(state["module"])
            check_state(self.optimizer, state["optimizer"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.schedule is not None:
                self.schedule.load_state_dict(state["schedule"])
            self.pool.load_state_dict(state["pool"])
            self.num_steps, self.num_skipped = int(state["num_steps"]), int(state["num_skipped"])
        except (RuntimeError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"a trainer must resume with the module it was saved with: {error!r}") from error


def _laid_out_as(parameter: Tensor, grad: Tensor) -> Tensor:
    """A gradient on the device, in the precision and with the strides of its parameter, as autograd itself gives it.

    That of a convolution on a GPU comes with channels last, which torch's fused optimizers refuse.
    """
    grad = grad.to(parameter.device, parameter.dtype)
    return grad if grad.stride() == parameter.stride() else torch.empty_like(parameter).copy_(grad)


def check_state(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Refuse a state of an optimizer whose tensors are not those that a step of it makes.

    Fused steps trust shapes, and would read and write beyond a tensor that is too small.

    Raises:
        ValueError: another parameter, other tensors, or other shapes.
    """
    twin = copy.deepcopy(optimizer)  # of parameters too; what a schedule has put on it is left behind
    for group in twin.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    twin.step()
    expected = twin.state_dict()["state"]
    for i, found in saved["state"].items():
        want = {name: _shape(value) for name, value in expected.get(i, {}).items()}
        got = {name: _shape(value) for name, value in found.items()}
        if want != got:
            raise ValueError(
                f"the state of a {type(optimizer).__name__} must be one that it makes itself: for parameter {i} with "
                f"shapes {want}; got {got}."
            )


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None

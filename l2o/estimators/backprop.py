"""Backpropagation through the unroll, full or truncated (Werbos, 1990; Andrychowicz et al., 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Generator, Tensor, nn

from l2o.estimators.base import GradientEstimator, MetaGradient
from l2o.estimators.problems import Problems, ProblemState
from l2o.types import Theta


@dataclass(frozen=True)
class Backprop(GradientEstimator):
    """The exact gradient of each window's mean meta-loss, cut where the window begins.

    Full backpropagation is `window == horizon`. Shorter windows are biased: what a step does to later windows is
    not seen (Wu et al., 2018, https://arxiv.org/abs/1803.02021).

    A task whose meta-loss is not finite is left out of the mean; one whose gradient alone is not finite (an exploding
    unroll behind a bounded loss) counts with gradient zero. Where no task is finite, the gradient is zero and the loss
    nan.

    Arguments:
        problems: what to train on; `problems.order` and `problems.recompute` matter here.
    """

    problems: Problems

    def __post_init__(self) -> None:
        if self.problems.copies != 1:
            raise ValueError(f"backpropagation trains one network a task; got copies={self.problems.copies}.")
        if self.problems.truncation.window == 1 and self.problems.meta_loss.reduction == "mean":
            raise ValueError(
                "window must be at least 2 inner steps with the mean of training losses, because the loss before the "
                "window's first step does not depend on theta; got window=1."
            )

    @property
    def module(self) -> nn.Module:
        return self.problems.rule

    def init(self, theta: Theta, generator: Generator) -> ProblemState:
        return self.problems.start(generator)

    def estimate(self, theta: Theta, state: ProblemState, generator: Generator) -> tuple[MetaGradient, ProblemState]:
        num = self.problems.num_tasks
        # a theta for each lane: in a sum over lanes one gradient that is not finite would spoil all (0 * inf = nan)
        lanes = {name: v.detach().expand(num, *v.shape).requires_grad_() for name, v in theta.items()}
        with torch.enable_grad():
            window, state = self.problems.advance(lanes, state, generator)
            values = window.values[0]
            usable = values.isfinite()
            count = usable.sum().clamp(min=1)
            loss = torch.where(usable, values, 0.0).sum() / count
            inputs = list(lanes.values())
            if loss.requires_grad:
                found = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
            else:  # a rule may move some tensors without theta; this structure has no others
                found = tuple(torch.zeros_like(v) for v in inputs)
        finite = usable & torch.stack([_finite(grad) for grad in found]).all(dim=0)
        grads = {
            name: torch.where(finite.view(-1, *[1] * (grad.ndim - 1)), grad, 0.0).sum(dim=0)
            for name, grad in zip(theta, found, strict=True)
        }
        metrics = {"nonfinite": 1 - finite.double().mean()}
        return MetaGradient(
            grads, torch.where(usable.any(), loss.detach(), float("nan")), metrics
        ), self.problems.renew(state, window.ended, generator)


def _finite(grad: Tensor) -> Bool[Tensor, " lanes"]:
    return grad.reshape(len(grad), -1).isfinite().all(dim=1)

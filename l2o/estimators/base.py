"""How theta is improved: the interface of every estimator of the meta-gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from l2o.types import Theta


class MetaGradient(NamedTuple):
    """What an estimator returns.

    grads: estimate of the gradient of the meta-loss, with theta's names and shapes.
    loss: the meta-loss seen while estimating; nan where no problem had a finite one.
    metrics: further scalars for the log.
    """

    grads: Theta
    loss: Float[Tensor, ""]
    metrics: dict[str, Float[Tensor, ""]]


class GradientEstimator(ABC):
    """Estimates the gradient of a meta-loss with respect to theta.

    The estimator itself holds configuration only. What goes on between calls (half-trained networks, accumulated
    perturbations) is its state: a tree of tensors, so that it can be checkpointed and sent.
    """

    @property
    def module(self) -> nn.Module | None:
        """What theta belongs to, and on whose device estimates are made; None: wherever theta is given."""
        return None

    @abstractmethod
    def init(self, theta: Theta, generator: Generator) -> Any:
        """The state before the first estimate."""

    @abstractmethod
    def estimate(self, theta: Theta, state: Any, generator: Generator) -> tuple[MetaGradient, Any]:
        """One estimate, and the next state."""


def is_finite(gradient: MetaGradient) -> bool:
    """Whether every number of the gradient is."""
    return bool(torch.stack([grad.isfinite().all() for grad in gradient.grads.values()]).all())


def mean_gradient(gradients: Sequence[MetaGradient], weights: Sequence[float] | None = None) -> MetaGradient:
    """The average of several estimates, in their order (so the result does not depend on who came first).

    Arguments:
        weights: of each in the gradient's average; None for equal ones. Loss and metrics are averaged without.
    """
    if not gradients:
        raise ValueError("at least one estimate is needed for a mean; got none.")
    names = gradients[0].grads
    if weights is None or len(set(weights)) == 1:
        grads = {name: torch.stack([g.grads[name] for g in gradients]).mean(dim=0) for name in names}
    else:
        total = sum(weights)
        shares = [weight / total for weight in weights]
        grads = {
            name: torch.stack([share * g.grads[name] for share, g in zip(shares, gradients, strict=True)]).sum(dim=0)
            for name in names
        }
    metrics = {key: torch.stack([g.metrics[key] for g in gradients]).mean() for key in gradients[0].metrics}
    return MetaGradient(grads, torch.stack([g.loss for g in gradients]).nanmean(), metrics)

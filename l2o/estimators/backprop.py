"""Backpropagation through the unroll, full or truncated (Werbos, 1990; Andrychowicz et al., 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator

from l2o.estimators.base import GradientEstimator, MetaGradient
from l2o.estimators.problems import ProblemState, Problems
from l2o.types import Theta


@dataclass(frozen=True)
class Backprop(GradientEstimator):
    """The exact gradient of each window's mean meta-loss, cut where the window begins.

    Full backpropagation is `window == horizon`. Shorter windows are biased: what a step does to later windows is
    not seen (Wu et al., 2018, https://arxiv.org/abs/1803.02021).

    Arguments:
        problems: what to train on; `problems.order` and `problems.checkpoint` matter here.
    """

    problems: Problems

    def init(self, theta: Theta, generator: Generator) -> ProblemState:
        return self.problems.start(generator)

    def estimate(
        self, theta: Theta, state: ProblemState, generator: Generator
    ) -> tuple[MetaGradient, ProblemState]:
        theta = {name: value.detach().requires_grad_() for name, value in theta.items()}
        with torch.enable_grad():
            window, state = self.problems.advance(theta, state, generator)
            usable = window.values.isfinite()
            loss = torch.where(usable, window.values, 0.0).sum() / usable.sum().clamp(min=1)
            found = torch.autograd.grad(loss, list(theta.values()), allow_unused=True, materialize_grads=True)
        grads = dict(zip(theta, found, strict=True))
        metrics = {"nonfinite": 1 - usable.double().mean()}
        return MetaGradient(grads, loss.detach(), metrics), self.problems.renew(state, window.ended, generator)

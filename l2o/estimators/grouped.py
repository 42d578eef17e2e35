"""Tasks of several structures at once, one vectorised step for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Generator, nn

from l2o.estimators.base import GradientEstimator, MetaGradient, mean_gradient
from l2o.types import Theta


@dataclass(frozen=True)
class Grouped(GradientEstimator):
    """Averages the estimates of several groups of problems, whose structures (width, data set, ...) are independent.

    All tasks of a group run in one batch, which asks for one structure; a mixture of tasks is met in one outer step by
    as many groups. Each structure is compiled once, however often it is drawn.

    Arguments:
        estimator: of one group; it holds no state, so it serves all.
        num_groups: structures at once.
    """

    estimator: GradientEstimator
    num_groups: int

    def __post_init__(self) -> None:
        if self.num_groups < 1:
            raise ValueError(f"num_groups must be at least 1, because a gradient needs a task; got {self.num_groups}.")

    @property
    def module(self) -> nn.Module | None:
        return self.estimator.module

    def init(self, theta: Theta, generator: Generator) -> tuple[Any, ...]:
        return tuple(self.estimator.init(theta, generator) for _ in range(self.num_groups))

    def estimate(
        self, theta: Theta, state: tuple[Any, ...], generator: Generator
    ) -> tuple[MetaGradient, tuple[Any, ...]]:
        found = [self.estimator.estimate(theta, one, generator) for one in state]
        return mean_gradient([gradient for gradient, _ in found]), tuple(after for _, after in found)

"""Where meta-gradients are computed: workers with their own tasks, generator and estimator state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from l2o.estimators.base import GradientEstimator, MetaGradient
from l2o.types import Theta, seeded


class Worker:
    """One estimator at work: its generator and its half-trained problems, from a seed.

    Arguments:
        seed: worker i of a pool has the pool's seed + i.
    """

    def __init__(self, estimator: GradientEstimator, theta: Theta, seed: int) -> None:
        self.estimator = estimator
        self.generator = seeded(seed)
        self.state = estimator.init(theta, self.generator)

    def estimate(self, theta: Theta) -> MetaGradient:
        """One estimate; the worker's problems advance."""
        gradient, self.state = self.estimator.estimate(theta, self.state, self.generator)
        return gradient

    def state_dict(self) -> dict[str, Any]:
        """All that a restart needs, as a tree of tensors."""
        return {"generator": self.generator.get_state(), "state": self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        if type(state["state"]) is not type(self.state):
            raise ValueError(
                f"a worker resumes with the estimator it was saved with; {type(self.estimator).__name__} has a "
                f"{type(self.state).__name__}, got a {type(state['state']).__name__}."
            )
        self.generator.set_state(state["generator"])
        self.state = state["state"]


class WorkerPool(ABC):
    """Workers that estimate side by side."""

    @abstractmethod
    def estimate(self, theta: Theta) -> list[MetaGradient]:
        """One estimate from every worker, in the workers' order."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """State of all workers."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""

    def close(self) -> None:  # noqa: B027 - most have nothing to end
        """End what the pool has started."""


class LocalPool(WorkerPool):
    """Workers in this process, one after the other: the reference for every distributed pool.

    Arguments:
        estimator: shared by all workers; it holds no state.
        theta: initial theta (its shapes matter).
        num_workers: independent estimates a step.
        seed: worker i starts from seed + i.
    """

    def __init__(self, estimator: GradientEstimator, theta: Theta, num_workers: int = 1, seed: int = 0) -> None:
        if num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, because somebody has to work; got {num_workers}.")
        self.workers = [Worker(estimator, theta, seed + i) for i in range(num_workers)]

    def estimate(self, theta: Theta) -> list[MetaGradient]:
        return [worker.estimate(theta) for worker in self.workers]

    def state_dict(self) -> dict[str, Any]:
        return {"workers": [worker.state_dict() for worker in self.workers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        saved = state["workers"]
        if len(saved) != len(self.workers):
            raise ValueError(
                "a pool resumes with the number of workers it was saved with, because each has problems of its own; "
                f"got {len(self.workers)} workers for {len(saved)} saved ones."
            )
        for worker, one in zip(self.workers, saved, strict=True):
            worker.load_state_dict(one)

"""Where meta-gradients are computed: workers with their own tasks, generator and estimator state."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator

from l2o.estimators.base import GradientEstimator, MetaGradient
from l2o.types import Theta, device_of, seeded, tree_to


class Estimate(NamedTuple):
    """A worker's estimate, as the trainer gets it.

    worker: its index in the pool.
    number: which of the worker's estimates it is, from 1; no number is given out twice.
    staleness: outer steps that theta has made since the worker got it; 0 where the trainer waits for everyone.
    weight: in the mean of the step.
    seconds: that the worker took.
    """

    gradient: MetaGradient
    worker: int
    number: int
    staleness: int = 0
    weight: float = 1.0
    seconds: float = 0.0


class Worker:
    """One estimator at work: its generator and its half-trained problems, from a seed.

    Arguments:
        seed: worker i of a pool has the pool's seed + i.
    """

    def __init__(self, estimator: GradientEstimator, theta: Theta, seed: int) -> None:
        self.estimator = estimator
        self.device = None if estimator.module is None else device_of(estimator.module)
        self.generator = seeded(seed)
        # of the global generators, for what draws from those (dropout)
        self.random = seeded(seed).get_state()
        self.gpu = self.device if self.device is not None and self.device.type == "cuda" else None
        self.gpu_random = None if self.gpu is None else Generator(self.gpu).manual_seed(seed).get_state()
        self.state = estimator.init(self._here(theta), self.generator)
        self.number = 0

    def estimate(self, theta: Theta) -> MetaGradient:
        """One estimate; the worker's problems advance."""
        with torch.random.fork_rng(devices=[] if self.gpu is None else [self.gpu]):
            torch.set_rng_state(self.random)
            if self.gpu is not None and self.gpu_random is not None:
                torch.cuda.set_rng_state(self.gpu_random, self.gpu)
            gradient, self.state = self.estimator.estimate(self._here(theta), self.state, self.generator)
            self.random = torch.get_rng_state()
            if self.gpu is not None:
                self.gpu_random = torch.cuda.get_rng_state(self.gpu)
        self.number += 1
        return gradient

    def _here(self, theta: Theta) -> Theta:
        """Theta on the device that estimates are made on, whence gradients come."""
        return theta if self.device is None else tree_to(theta, self.device)

    def state_dict(self) -> dict[str, Any]:
        """All that a restart needs, as a tree of tensors."""
        random = {"generator": self.generator.get_state(), "random": self.random, "gpu_random": self.gpu_random}
        return {**random, "state": self.state, "number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        if type(state["state"]) is not type(self.state):
            raise ValueError(
                f"a worker resumes with the estimator it was saved with; {type(self.estimator).__name__} has a "
                f"{type(self.state).__name__}, got a {type(state['state']).__name__}."
            )
        self.generator.set_state(state["generator"])
        self.random = state.get("random", self.random)
        self.gpu_random = state.get("gpu_random") if state.get("gpu_random") is not None else self.gpu_random
        self.state, self.number = state["state"], state.get("number", 0)


class WorkerPool(ABC):
    """Workers that estimate side by side."""

    @abstractmethod
    def estimate(self, theta: Theta) -> list[Estimate]:
        """The estimates that an outer step is to be made of, in the workers' order, whoever was first."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """State of all workers."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, by this pool or one of another kind."""

    def metrics(self) -> dict[str, float]:
        """How the pool fares, for the dashboard."""
        return {}

    def events(self) -> list[dict[str, Any]]:
        """What happened to workers since this was last asked, for the ledger: plain values, one dict an event."""
        return []

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
        check_workers(num_workers)
        self.workers = [Worker(estimator, theta, seed + i) for i in range(num_workers)]

    def estimate(self, theta: Theta) -> list[Estimate]:
        found = []
        for i, worker in enumerate(self.workers):
            began = time.perf_counter()
            gradient = worker.estimate(theta)
            found.append(Estimate(gradient, i, worker.number, seconds=time.perf_counter() - began))
        return found

    def state_dict(self) -> dict[str, Any]:
        return {"workers": [worker.state_dict() for worker in self.workers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for worker, one in zip(self.workers, saved_workers(state, len(self.workers)), strict=True):
            worker.load_state_dict(one)


def check_workers(num_workers: int) -> None:
    """Raise a ValueError unless somebody is to work."""
    if num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, because somebody has to work; got {num_workers}.")


def saved_workers(state: dict[str, Any], num_workers: int) -> Sequence[dict[str, Any]]:
    """The workers' states of a pool's.

    Raises:
        ValueError: it is that of a pool of another size.
    """
    saved: Sequence[dict[str, Any]] = state["workers"]
    if len(saved) != num_workers:
        raise ValueError(
            "a pool resumes with the number of workers it was saved with, because each has problems of its own; "
            f"got {num_workers} workers for {len(saved)} saved ones."
        )
    return saved

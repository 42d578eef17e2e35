"""Meta-gradients of learners: the query loss after adaptation, and Reptile's difference of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.func import functional_call, vmap

from l2o.estimators.base import GradientEstimator, MetaGradient
from l2o.learners.adaptation import Adaptation
from l2o.learners.gradient.reptile import Move
from l2o.learners.meta_grad import MetaGrad, lanes_of, meta_grad
from l2o.tasks.episodes import Episode, EpisodeFamily
from l2o.types import Theta, device_of, tree_map, tree_to


class EpisodicState(NamedTuple):
    """How many estimates have been made; episodes are drawn afresh for each."""

    num_estimates: Int[Tensor, ""]


@dataclass(frozen=True)
class MultiStepLoss:
    """Weights of the query losses after each inner step, moved to the last one (Antoniou et al., 2019, section 4).

    The others end at 0; in the authors' code at 0.03 / steps.

    Arguments:
        anneal: estimates until the last step alone counts; they begin equal.
    """

    anneal: int = 1000

    def __post_init__(self) -> None:
        if self.anneal < 1:
            raise ValueError(f"anneal must be at least 1 estimate; got {self.anneal} (None for the last step alone).")

    def __call__(self, count: int, steps: int) -> Float[Tensor, " steps"]:
        """The weights at an estimate."""
        left = max(0.0, 1.0 - count / self.anneal) / steps
        weights = torch.full((steps,), left)
        weights[-1] += 1.0 - left * steps
        return weights


@dataclass(frozen=True)
class Episodic(GradientEstimator):
    """The gradient of the mean query loss over fresh episodes; episodes without a finite one are left out and counted.

    If no episode has one the estimate is nan, which trainers leave out.

    Arguments:
        adaptation: what is trained; only its structure matters, theta comes with each call.
        family: where episodes come from.
        num_episodes: episodes of an estimate.
        batching, compile, trace: see `meta_grad`.
        multi_step: sum the query losses after every inner step; None for the last one alone.
    """

    adaptation: Adaptation
    family: EpisodeFamily
    num_episodes: int = 4
    batching: str = "auto"
    compile: bool = False
    multi_step: MultiStepLoss | None = None
    trace: bool = False

    def __post_init__(self) -> None:
        _check_number(self.num_episodes)

    @property
    def module(self) -> nn.Module:
        return self.adaptation

    def init(self, theta: Theta, generator: Generator) -> EpisodicState:
        return EpisodicState(torch.zeros((), dtype=torch.int64))

    def estimate(self, theta: Theta, state: EpisodicState, generator: Generator) -> tuple[MetaGradient, EpisodicState]:
        family = self.family.at(int(state.num_estimates))
        episodes = tree_to(family.sample_many(generator, self.num_episodes), device_of(self.adaptation))
        weights = None
        if self.multi_step is not None and self.adaptation.steps:
            weights = self.multi_step(int(state.num_estimates), self.adaptation.steps)
        self.adaptation.train()
        found = meta_grad(self.adaptation, episodes, theta, self.batching, weights, self.compile, self.trace)
        return _told(found), EpisodicState(state.num_estimates + 1)


@dataclass(frozen=True)
class Reptile(GradientEstimator):
    """Towards the adapted weights: slow minus fast, averaged over episodes (Nichol et al., 2018, algorithm 2).

    Works without query sets: the support set is what the inner steps learn. Meant for `SGD` as the outer optimizer,
    whose learning rate is then the part of the way that the slow weights go.

    Arguments:
        adaptation: its learner's fast variables must be its own slow weights, as of `MAML`.
        family, num_episodes, batching: see `Episodic`.

    Reference: https://arxiv.org/abs/1803.02999
    """

    adaptation: Adaptation
    family: EpisodeFamily
    num_episodes: int = 5
    batching: str = "auto"

    def __post_init__(self) -> None:
        _check_number(self.num_episodes)

    @property
    def module(self) -> nn.Module:
        return self.adaptation

    def init(self, theta: Theta, generator: Generator) -> EpisodicState:
        return EpisodicState(torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def estimate(self, theta: Theta, state: EpisodicState, generator: Generator) -> tuple[MetaGradient, EpisodicState]:
        family = self.family.at(int(state.num_estimates))
        episodes = tree_to(family.sample_many(generator, self.num_episodes), device_of(self.adaptation))
        self.adaptation.train()
        mover = Move(self.adaptation)
        inner = {f"adaptation.{name}": value for name, value in theta.items()}

        def move(episode: Episode) -> tuple[dict[str, Tensor], Tensor, Tensor]:
            return functional_call(mover, inner, (episode,))

        if lanes_of(self.batching, self.adaptation, episodes, self.num_episodes):
            moved, losses, scores = vmap(move)(episodes)
        else:
            each = [move(tree_map(lambda x, i=i: x[i], episodes)) for i in range(self.num_episodes)]
            moved, losses, scores = (_stack(parts) for parts in zip(*each, strict=True))
        finite = losses.isfinite() & torch.stack([d.reshape(len(d), -1).sum(1).isfinite() for d in moved.values()]).all(
            0
        )
        count = finite.sum().clamp(min=1)
        grads = {name: torch.zeros_like(value) for name, value in theta.items()}
        for name, difference in moved.items():
            if name not in grads:  # frozen
                continue
            lanes = finite.view(-1, *[1] * (difference.ndim - 1))
            grads[name] = torch.where(lanes, difference, 0.0).sum(0) / count
        return _told(MetaGrad(grads, losses, scores, finite)), EpisodicState(state.num_estimates + 1)


def _stack(parts: Any) -> Any:
    if isinstance(parts[0], dict):
        return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
    return torch.stack(list(parts))


def _told(found: MetaGrad) -> MetaGradient:
    """The estimate with its log."""
    none = ~found.finite.any()  # then there is no gradient, rather than one of zero
    grads = {name: torch.where(none, float("nan"), grad) for name, grad in found.grads.items()}
    usable = found.losses.isfinite()
    loss = torch.where(usable.any(), found.losses[usable].mean(), float("nan"))
    metrics = {"nonfinite": 1 - found.finite.double().mean(), "train_score": found.scores.nanmean()}
    return MetaGradient(grads, loss, metrics)


def _check_number(num_episodes: int) -> None:
    if num_episodes < 1:
        raise ValueError(f"num_episodes must be at least 1, because a gradient needs one; got {num_episodes}.")

"""Evolution strategies over theta: ES, PES and noise-reuse ES, with antithetic pairs.

Every task trains a pair of networks side by side, with theta + epsilon and theta - epsilon and the same batches. The
three estimators differ in when epsilon is drawn and by what a window's difference of losses is multiplied:

    ES      a new epsilon every window; gradient += (L+ - L-) / (2 s^2) * epsilon           (biased by truncation)
    PES     a new epsilon every window; ... * sum of the problem's epsilons so far          (unbiased)
    NRES    one epsilon for a whole problem; ... * epsilon                                  (unbiased, least variance)
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Generator, Tensor, nn

from l2o.estimators.base import GradientEstimator, MetaGradient
from l2o.estimators.problems import Problems, ProblemState
from l2o.inner_loop import repeat_lanes
from l2o.types import Theta, tree_map


class ESState(NamedTuple):
    """Problems under way and, for each task, the noise that its gradient is multiplied by (empty for plain ES)."""

    problems: ProblemState
    noise: Theta


@dataclass(frozen=True)
class EvolutionStrategy(GradientEstimator):
    """What the three have in common.

    Arguments:
        problems: what to train on; give it one copy a task, the pair is made here.
        std: standard deviation s of the perturbations.
        sign_delta: use only the sign of L+ - L- (VeLO, Metz et al., 2022, appendix B): no task outweighs another.
    """

    problems: Problems
    std: float = 0.01
    sign_delta: bool = False

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std must be positive, because the estimate divides by it; got std={self.std}.")
        object.__setattr__(self, "problems", replace(self.problems, copies=2))

    @property
    def module(self) -> nn.Module:
        return self.problems.rule

    def init(self, theta: Theta, generator: Generator) -> ESState:
        problems = self.problems.start(generator)
        return ESState(problems, self._initial_noise(theta, generator))

    @torch.no_grad()
    def estimate(self, theta: Theta, state: ESState, generator: Generator) -> tuple[MetaGradient, ESState]:
        noise = {name: value.to(theta[name].device) for name, value in state.noise.items()}
        epsilon, weight = self._perturb(theta, noise, generator)
        pairs = {name: torch.cat([value + epsilon[name], value - epsilon[name]]) for name, value in theta.items()}
        window, problems = self.problems.advance(pairs, self._before(state.problems), generator)
        delta = window.values[0] - window.values[1]
        usable = delta.isfinite()
        delta = torch.where(usable, delta.sign() if self.sign_delta else delta, 0.0) / (2 * self.std**2)
        share = delta / usable.sum().clamp(min=1)
        grads = {name: torch.tensordot(share.to(w.dtype), w, dims=1) for name, w in weight.items()}
        loss = torch.where(usable, window.values.mean(dim=0), 0.0).sum() / usable.sum()  # nan if no pair is finite
        metrics = {"nonfinite": 1 - usable.double().mean()}
        noise = self._after(epsilon, weight, window.ended, generator)
        problems = self.problems.renew(problems, window.ended, generator)
        return MetaGradient(grads, loss, metrics), ESState(problems, noise)

    def _draw(self, theta: Theta, generator: Generator) -> Theta:
        """One perturbation a task."""
        shape = (self.problems.num_tasks,)
        return {
            name: (self.std * torch.randn(shape + value.shape, generator=generator, dtype=value.dtype)).to(value.device)
            for name, value in theta.items()
        }

    def _initial_noise(self, theta: Theta, generator: Generator) -> Theta:
        return {}

    def _before(self, problems: ProblemState) -> ProblemState:
        """Where both networks of a pair begin their window."""
        return problems

    @abstractmethod
    def _perturb(self, theta: Theta, noise: Theta, generator: Generator) -> tuple[Theta, Theta]:
        """This window's epsilon, and what (L+ - L-) / (2 s^2) is multiplied by."""

    def _after(self, epsilon: Theta, weight: Theta, ended: Tensor, generator: Generator) -> Theta:
        """The noise to keep."""
        return {}


@dataclass(frozen=True)
class ES(EvolutionStrategy):
    """Antithetic evolution strategies on each window (Salimans et al., 2017; Metz et al., 2019).

    Both networks of a pair begin a window from the same state, that of theta + epsilon. Biased when windows are
    shorter than the horizon, like truncated backpropagation.
    """

    def _before(self, problems: ProblemState) -> ProblemState:
        first = tree_map(lambda x: x[: self.problems.num_tasks], problems.inner)
        return problems._replace(inner=repeat_lanes(first, 2))

    def _perturb(self, theta: Theta, noise: Theta, generator: Generator) -> tuple[Theta, Theta]:
        epsilon = self._draw(theta, generator)
        return epsilon, epsilon


@dataclass(frozen=True)
class PES(EvolutionStrategy):
    """Persistent evolution strategies (Vicol et al., 2021, https://arxiv.org/abs/2112.13835).

    A problem's perturbations are summed, so that a window's loss credits all that came before it: unbiased however
    short the window.
    """

    def _initial_noise(self, theta: Theta, generator: Generator) -> Theta:
        return {name: value.new_zeros(self.problems.num_tasks, *value.shape) for name, value in theta.items()}

    def _perturb(self, theta: Theta, noise: Theta, generator: Generator) -> tuple[Theta, Theta]:
        epsilon = self._draw(theta, generator)
        return epsilon, {name: noise[name] + epsilon[name] for name in theta}

    def _after(self, epsilon: Theta, weight: Theta, ended: Tensor, generator: Generator) -> Theta:
        return {name: torch.where(_column(ended, w), 0.0, w) for name, w in weight.items()}


@dataclass(frozen=True)
class NRES(EvolutionStrategy):
    """Noise-reuse evolution strategies (Li et al., 2023, https://arxiv.org/abs/2304.12180).

    A problem keeps one perturbation from start to end: unbiased for the smoothed loss however short the window, with
    the least variance among unbiased online estimators of this kind.
    """

    def _initial_noise(self, theta: Theta, generator: Generator) -> Theta:
        return self._draw(theta, generator)

    def _perturb(self, theta: Theta, noise: Theta, generator: Generator) -> tuple[Theta, Theta]:
        return noise, noise

    def _after(self, epsilon: Theta, weight: Theta, ended: Tensor, generator: Generator) -> Theta:
        if not ended.any():
            return epsilon
        fresh = self._draw({name: e[0] for name, e in epsilon.items()}, generator)
        return {name: torch.where(_column(ended, e), fresh[name], e) for name, e in epsilon.items()}


def _column(mask: Bool[Tensor, " tasks"], like: Tensor) -> Tensor:
    """A mask over tasks, shaped to broadcast over `like`."""
    return mask.to(like.device).view(-1, *[1] * (like.ndim - 1))

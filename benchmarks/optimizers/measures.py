"""Numbers from training curves: smoothed loss, steps to a target, ratios and their means over problems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

LAST = 0.05
"""Share of the steps whose mean is the final loss, and the span of the moving average."""

POINTS = 200
"""Of a curve that is kept."""

NOT_REACHED = 2.0
"""The ratio of steps that counts where a target is never reached: as if twice the run had been needed."""

DIVERGED = 10.0
"""The ratio of losses that counts where one is not finite."""

T = TypeVar("T", float, np.ndarray)

TOLERANCE = 1e-3
"""Relative, of what counts as at a target: scores have a largest value, to which a moving average only tends."""


def final(losses: np.ndarray) -> np.ndarray:
    """Mean over the last twentieth of the steps; infinite where a run is not finite throughout."""
    means = losses[..., -_span(losses) :].mean(axis=-1, dtype=np.float64)
    return np.where(np.isfinite(losses).all(axis=-1), means, np.inf)


def smooth(losses: np.ndarray) -> np.ndarray:
    """Exponential moving average over the last axis, of that span (decay 1 - 2 / (span + 1)), without bias."""
    weight = 2 / (_span(losses) + 1)
    average, averages = np.zeros(losses.shape[:-1]), np.empty(losses.shape)
    for t in range(losses.shape[-1]):
        average = (1 - weight) * average + weight * losses[..., t]
        averages[..., t] = average / (1 - (1 - weight) ** (t + 1))
    return averages


def thinned(losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smoothed loss at `POINTS` steps, evenly from the span to the end, or at all if they are fewer.

    Infinite for a run that is not finite throughout: nobody can use what it had reached.
    """
    span, num = _span(losses), losses.shape[-1]
    steps = np.unique(np.linspace(span, num, POINTS).round().astype(int))
    whole = np.isfinite(losses).all(axis=-1, keepdims=True)
    return steps, np.where(whole, smooth(np.where(whole, losses, 0.0))[..., steps - 1], np.inf)


def steps_to(steps: np.ndarray, curves: np.ndarray, target: float) -> np.ndarray:
    """The first of the steps at which a smoothed loss is at or below the target; infinite if it never is."""
    reached = holds(curves, target)
    return np.where(reached.any(axis=-1), steps[reached.argmax(axis=-1)], np.inf)


def holds(value: T, target: float) -> T:
    """Whether a loss is at or below a target."""
    return value <= target + TOLERANCE * abs(target)


def median_steps_to(steps: np.ndarray, curves: np.ndarray, target: float) -> float:
    """Median of `steps_to` over seeds; of an even number, the later of the two in the middle."""
    return float(np.quantile(steps_to(steps, curves, target), 0.5, method="higher"))


def step_ratio(reached: float, own: float) -> float:
    """Steps to a target over those that the reference itself takes; `NOT_REACHED` where they are infinite."""
    return min(reached / own, NOT_REACHED) if np.isfinite(reached) else NOT_REACHED


def diverged(losses: np.ndarray) -> np.ndarray:
    """Runs that are not finite, or end worse than they began."""
    return ~(final(losses) <= losses[..., 0])


def value_ratio(value: float, reference: float) -> float | None:
    """How many times the reference a loss is; of scores, which are negative, the inverse: below 1 is better.

    `DIVERGED` for a loss that is not finite; None where there is no ratio.
    """
    if not np.isfinite(value):
        return DIVERGED
    if value > 0 and reference > 0:
        return value / reference
    return reference / value if value < 0 and reference < 0 else None


def geometric_mean(values: Sequence[float]) -> float:
    """exp(mean(log x))."""
    return float(np.exp(np.mean(np.log(values))))


def interval(values: Sequence[float], draws: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """95% bootstrap interval of the geometric mean, problems drawn with replacement."""
    logs = np.log(values)
    index = np.random.default_rng(seed).integers(len(logs), size=(draws, len(logs)))
    low, high = np.quantile(np.exp(logs[index].mean(axis=1)), (0.025, 0.975))
    return float(low), float(high)


def best_of(grid: Sequence[int], score: Callable[[int], float], more: int = 6) -> tuple[int, dict[int, float]]:
    """The best point of a grid, and all scores; beyond an edge that is best it grows, by so many points at most."""
    scores = {k: score(k) for k in grid}
    while True:
        best = min(sorted(scores), key=scores.__getitem__)
        if best not in (min(scores), max(scores)) or len(scores) >= len(grid) + more:
            return best, scores
        beyond = best - 1 if best == min(scores) else best + 1
        scores[beyond] = score(beyond)


def _span(losses: np.ndarray) -> int:
    return max(1, round(LAST * losses.shape[-1]))

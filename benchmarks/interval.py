"""How sure a mean over a few runs is."""

from __future__ import annotations

from scipy.stats import t
from torch import Tensor


def half_width(x: Tensor) -> float:
    """Of the 95% interval of a mean, by Student's t."""
    return float(x.std() / len(x) ** 0.5 * t.ppf(0.975, len(x) - 1))

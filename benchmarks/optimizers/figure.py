"""Training curves, one panel a problem: median and range over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.optimizers.measures import smooth
from benchmarks.optimizers.report import TITLES
from benchmarks.optimizers.sweep import Result
from l2o.training.report import grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = {"ours": "C3", "adamw": "C0", "adamw-1e-3": "C9", "muon": "C2"}
"""Methods in the picture, and their colours; all there are if none of these is there."""

POINTS = 400
"""Of a curve in the picture, at most."""


def figure(results: Sequence[Result]) -> Figure:
    """A grid of panels, smoothed training loss against steps.

    Raises:
        ImportError: matplotlib is missing.
    """
    problems = list(dict.fromkeys(result.problem for result in results))
    drawn, panels = grid(len(problems), (3.6, 2.7), most=4)
    for panel, problem in zip(panels, problems, strict=True):
        _draw(panel, problem, [result for result in results if result.problem == problem])
    handles = {label: line for panel in panels for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    drawn.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    return drawn


def _draw(panel: Any, problem: str, results: Sequence[Result]) -> None:
    shown = [result for result in results if result.method in SHOWN] or list(results)
    low, high = math.inf, -math.inf
    for i, result in enumerate(shown):
        curves = smooth(result.losses)
        every = max(1, curves.shape[-1] // POINTS)
        steps, curves = np.arange(1, curves.shape[-1] + 1)[::every], curves[:, ::every]
        color = SHOWN.get(result.method, f"C{i}")
        middle = np.median(curves, axis=0)
        panel.plot(steps, middle, color=color, label=TITLES[result.method], linewidth=1.3)
        panel.fill_between(steps, curves.min(axis=0), curves.max(axis=0), color=color, alpha=0.2, linewidth=0)
        finite = middle[np.isfinite(middle)]
        if len(finite):
            low, high = min(low, float(finite.min())), max(high, float(finite[0]))
    panel.set_title(problem, fontsize=10)
    panel.tick_params(labelsize=7, which="both")
    if 0 < low < high:
        panel.set(yscale="log", ylim=(low / 1.15, high * 1.1))

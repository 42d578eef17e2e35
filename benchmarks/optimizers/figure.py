"""Training curves, one panel a problem: median and range over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.optimizers.report import TITLES
from benchmarks.optimizers.rows import Row
from l2o.training.report import grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = {"ours": "C3", "adamw": "C0", "adamw-1e-3": "C9", "muon": "C2"}
"""Methods in the picture, and their colours; all there are if none of these is there."""


def figure(found: Sequence[Row]) -> Figure:
    """A grid of panels, smoothed training loss against steps, from rows.

    Raises:
        ImportError: matplotlib is missing.
    """
    single = [row for row in found if "curves" in row]
    problems = list(dict.fromkeys(row["problem"] for row in single))
    drawn, panels = grid(len(problems), (3.6, 2.7), most=4)
    for panel, problem in zip(panels, problems, strict=True):
        _draw(panel, problem, [row for row in single if row["problem"] == problem])
    handles = {label: line for panel in panels for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    drawn.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    return drawn


def _draw(panel: Any, problem: str, found: Sequence[Row]) -> None:
    shown = [row for row in found if row["method"] in SHOWN] or list(found)
    low, high = math.inf, -math.inf
    for i, row in enumerate(shown):
        curves, color = np.array(row["curves"], dtype=np.float64), SHOWN.get(row["method"], f"C{i}")
        middle = np.median(curves, axis=0)
        panel.plot(row["curve_steps"], middle, color=color, label=TITLES[row["method"]], linewidth=1.3)
        around = (curves.min(axis=0), curves.max(axis=0))
        panel.fill_between(row["curve_steps"], *around, color=color, alpha=0.2, linewidth=0)
        finite = middle[np.isfinite(middle)]
        if len(finite):
            low, high = min(low, float(finite.min())), max(high, float(finite[0]))
    panel.set_title(problem, fontsize=10)
    panel.tick_params(labelsize=7, which="both")
    if 0 < low < high:
        panel.set(yscale="log", ylim=(low / 1.15, high * 1.1))

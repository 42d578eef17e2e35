"""What a comparison shows: a table in the terminal, rows for a file, a figure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from rich import box
from rich.table import Table
from torch import Tensor

from l2o.training.evaluate import Result, interval, speed_up

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def rows(results: Sequence[Result], baselines: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """One row a task and method: numbers with 95% intervals over seeds, and the sweep behind them (None: diverged)."""
    for result in results:
        row: dict[str, Any] = {
            "task": result.task,
            "method": result.method,
            "rate": result.rate,
            "num_seeds": len(result.losses),
            "num_steps": result.losses.shape[-1],
            "final_loss": float(result.final.mean()),
            **_bounds("final", result.final),
            "area": float(result.area.mean()),
            **_bounds("area", result.area),
            "validation": float(result.validation.mean()),
            "swept": result.swept,
        }
        for name in baselines:
            times = speed_up(result, find(results, result.task, name))
            row |= {f"speed_up_{name}": float(times.mean()), **_bounds(f"speed_up_{name}", times)}
        yield {key: plain(value) for key, value in row.items()}


def plain(value: Any) -> Any:
    """A value as JSON can hold it: None where a number is not finite, as of a rate that diverged."""
    if isinstance(value, dict):
        return {str(key): plain(child) for key, child in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _bounds(name: str, values: Float[Tensor, " seeds"]) -> dict[str, float]:
    """The 95% interval of a mean over seeds."""
    low, high = interval(values)
    return {f"{name}_low": low, f"{name}_high": high}


def find(results: Sequence[Result], task: str, method: str) -> Result:
    """The result of one method on one task."""
    return next(r for r in results if r.task == task and r.method == method)


def table(results: Sequence[Result], title: str = "", baseline: str | None = None) -> Table:
    """Final training loss with its interval over seeds, mean loss over all steps, validation loss at the end.

    Arguments:
        baseline: adds how many times fewer steps than this method's whole run reach its final loss (0: never).
    """
    shown = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True
    )
    for heading in ("task", "method, rate"):
        shown.add_column(heading, no_wrap=True)
    for heading in ("final loss [95%]", "mean", "valid."):
        shown.add_column(heading, justify="right", no_wrap=True)
    if baseline:
        shown.add_column(f"x {baseline}", justify="right", no_wrap=True)
    for task in dict.fromkeys(result.task for result in results):
        of_task = [result for result in results if result.task == task]
        best = min(float(result.final.mean()) for result in of_task)
        for result in of_task:
            low, high = interval(result.final)
            method = result.method if len(result.swept) == 1 else f"{result.method}, {result.rate:.3g}"
            mean = float(result.final.mean())
            cells = [task, method, f"{mean:.4f} [{low:.4f}, {high:.4f}]"]
            cells += [f"{float(value.mean()):.3f}" for value in (result.area, result.validation)]
            if baseline:
                cells.append(f"{float(speed_up(result, find(results, task, baseline)).mean()):.2f}")
            shown.add_row(*cells, style="bold" if mean == best else "")
        shown.add_section()
    return shown


def figure(results: Sequence[Result], title: str = "") -> Figure:
    """Training curves, one panel a task: mean over seeds, band from the lower to the upper quartile.

    Raises:
        ImportError: matplotlib is missing.
    """
    tasks = list(dict.fromkeys(r.task for r in results))
    drawn, panels = grid(len(tasks), (4.6, 3.4))
    for panel, task in zip(panels, tasks, strict=True):
        for i, result in enumerate(r for r in results if r.task == task):
            curves = result.losses.double().numpy()
            steps = range(curves.shape[-1])
            label = result.method if len(result.swept) == 1 else f"{result.method}, rate {result.rate:.3g}"
            panel.plot(steps, curves.mean(axis=0), color=f"C{i}", label=label, linewidth=1.5)
            low, high = np.quantile(curves, (0.25, 0.75), axis=0, method="nearest")
            panel.fill_between(steps, low, high, color=f"C{i}", alpha=0.2, linewidth=0)
        panel.set(title=task, xlabel="step", ylabel="training loss")
        _scale(panel, [r for r in results if r.task == task])
        panel.legend(fontsize=7)
    if title:
        drawn.suptitle(title)
    return drawn


def grid(num: int, size: tuple[float, float], most: int | None = None) -> tuple[Figure, list[Any]]:
    """A figure of so many panels in a grid that is nearly square.

    Arguments:
        size: width and height of a panel, inches.
        most: columns, at most.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise ImportError("figures need matplotlib, which is not installed: pip install 'l2o[plot]'.") from error
    columns = math.ceil(math.sqrt(num)) if most is None else min(most, math.ceil(math.sqrt(num)))
    lines = -(-num // columns)
    drawn = Canvas(figsize=(size[0] * columns, size[1] * lines), layout="constrained")
    panels = drawn.subplots(lines, columns, squeeze=False).flatten().tolist()
    for panel in panels[num:]:
        panel.set_visible(False)
    return drawn, panels[:num]


def _scale(panel: Any, results: Sequence[Result]) -> None:
    """Logarithmic where mean losses are positive; from a third of the lowest mean to three times the highest first
    loss, so that neither a lucky seed nor a diverging curve squeezes the others."""
    means = torch.cat([result.losses.mean(dim=0) for result in results])
    first = torch.cat([result.losses[:, 0] for result in results])
    means = means[means.isfinite()]
    if not len(means) or not first.isfinite().all():
        return
    low, top = float(means.min()), float(first.max())
    if low > 0:
        panel.set(yscale="log", ylim=(low / 3, 3 * top))
    else:
        low = min(float(result.losses[result.losses.isfinite()].min()) for result in results)
        spread = (top - low) or 1.0
        panel.set(ylim=(low - 0.05 * spread, top + 0.2 * spread))

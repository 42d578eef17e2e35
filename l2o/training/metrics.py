"""The dashboard: TensorBoard files of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LAYOUT = {
    "meta-training": {
        "loss": ["Multiline", ["outer/meta_loss"]],
        "gradient of theta": ["Multiline", ["outer/grad_norm"]],
        "learning rate": ["Multiline", ["outer/lr"]],
    },
    "held out": {
        "score": ["Multiline", ["held_out/score"]],
        "final losses": ["Multiline", ["held_out/final_loss/.*"]],
    },
    "trust": {"left out": ["Multiline", ["outer/skipped", "outer/not_finite", "outer/nonfinite"]]},
}
"""Which curves stand together, in TensorBoard's custom scalars."""


class Dashboard:
    """Writes curves, figures and hyperparameters of one run for TensorBoard.

    Arguments:
        folder: where the event files go.
        last_step: on resume, the step to go on from; later points of an earlier attempt are hidden.
    """

    def __init__(self, folder: str | Path, last_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import: only when a run starts

        self._writer = SummaryWriter(str(folder), purge_step=last_step + 1 if last_step else None)
        if not last_step:
            self._writer.add_custom_scalars(LAYOUT)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One point on each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def figure(self, name: str, figure: Figure, step: int) -> None:
        """A picture, by step."""
        self._writer.add_figure(name, figure, step)

    def hyperparameters(self, config: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """A line in the hyperparameters tab: the run's configuration and what it reached."""
        plain = {
            key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in config.items()
        }
        self._writer.add_hparams(plain, dict(scores), run_name=".")

    def close(self) -> None:
        """Write everything out."""
        self._writer.close()

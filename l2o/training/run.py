"""The outer loop with everything round it: progress, dashboard, held-out evaluation, checkpoints, resume."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from l2o.compiled import compile_seconds
from l2o.files import remove_unfinished, write_atomically
from l2o.load import RUN_FILE
from l2o.training.checkpoint import load_tree, save_tree
from l2o.training.ledger import Ledger
from l2o.training.meta_trainer import MetaTrainer
from l2o.training.metrics import Dashboard

Evaluator = Callable[[nn.Module], tuple[dict[str, float], Any]]
"""Scores a module on held-out tasks: numbers for the curves (`score` is the one to minimise) and a figure or None."""

MAY_CHANGE = (
    *("steps", "evaluate_every", "checkpoint_every", "threads", "compile", "trace", "device"),
    *("pool", "address", "gpus_per_worker", "cpu_workers"),
    *("quorum", "max_staleness", "late", "worker_timeout", "snapshot_every"),
)
"""Settings that a resumed run may have otherwise than before."""


BEFORE = {"encoder": None}
"""What runs had whose settings do not name it, since it could not be said yet."""


class RunDirectory:
    """The folder of one meta-training run.

    config.yaml          the resolved configuration
    rule.safetensors     what was trained, newest (learner.safetensors where that is a learner), for `l2o.load`
    best.safetensors     the same with the lowest held-out score
    checkpoints/         the last ones, for exact resume
    ledger.jsonl         which estimates each step was made of
    tensorboard/         the dashboard
    """

    def __init__(self, path: str | Path, keep: int = 2, file: str = RUN_FILE) -> None:
        self.path, self.keep, self.file = Path(path), keep, file

    @property
    def weights(self) -> Path:
        """The newest trained module."""
        return self.path / self.file

    @property
    def best(self) -> Path:
        """The module with the lowest held-out score."""
        return self.path / "best.safetensors"

    @property
    def dashboard(self) -> Path:
        """TensorBoard's folder."""
        return self.path / "tensorboard"

    @property
    def ledger(self) -> Path:
        """Which estimates each step was made of."""
        return self.path / "ledger.jsonl"

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Save the resolved configuration.

        Raises:
            ValueError: the folder holds a run with other settings.
        """
        state = self.newest()
        if state is not None:
            check_same(state.get("hyperparameters"), config, self)
        write_atomically(self.path / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False).encode())

    def checkpoints(self) -> list[Path]:
        """Checkpoints, oldest first."""
        return sorted((self.path / "checkpoints").glob("step_*.safetensors"))

    def save_checkpoint(self, tree: Any, step: int) -> None:
        """Write a checkpoint, then drop the oldest beyond `keep`."""
        save_tree(tree, self.path / "checkpoints" / f"step_{step:08d}.safetensors")
        remove_unfinished(self.path / "checkpoints")
        for old in self.checkpoints()[: -self.keep]:
            old.unlink()

    def newest(self) -> Any | None:
        """The newest readable checkpoint; a damaged one is passed over, with a warning, for the one before it.

        Raises:
            ValueError: there are checkpoints, but none is whole.
        """
        problems: list[str] = []
        for path in reversed(self.checkpoints()):
            try:
                tree = load_tree(path)
                if not isinstance(tree, dict):
                    raise ValueError(f"{path} must hold the state of a run; it holds a {type(tree).__name__}.")
            except ValueError as error:
                problems.append(str(error))
                continue
            if problems:
                warnings.warn(f"the run goes on from {path.name}, because {'; '.join(problems)}", stacklevel=3)
            return tree
        if problems:
            raise ValueError(f"no checkpoint of {self.path} can be read: {'; '.join(problems)}")
        return None


def meta_train(
    trainer: MetaTrainer,
    num_steps: int,
    directory: RunDirectory,
    save: Callable[[nn.Module, Path], None],
    evaluator: Evaluator | None = None,
    evaluate_every: int = 100,
    checkpoint_every: int = 50,
    hyperparameters: Mapping[str, Any] | None = None,
    show_progress: bool = True,
) -> dict[str, float]:
    """Meta-train up to `num_steps` outer steps, continuing from the newest checkpoint of `directory`.

    Arguments:
        save: writes the module for later use (`l2o.save`).
        evaluator: scores the module on held-out tasks every `evaluate_every` steps and at the end.
        hyperparameters: for the dashboard and the checkpoints, which refuse to go on with others.

    Returns:
        the last evaluation's scores, with `best` for the lowest held-out score of the run and `cpu_seconds` for what
        the run has taken, resumed parts added up.
    """
    state = directory.newest()
    scores: dict[str, float] = {}
    best, cpu_seconds, began = float("inf"), 0.0, time.process_time()
    if state is None:
        directory.best.unlink(missing_ok=True)  # of another run
    else:
        check_same(state.get("hyperparameters"), hyperparameters, directory)
        if missing := {"trainer", "scores", "best"} - state.keys():
            raise ValueError(f"a run of this kind resumes with its state; that in {directory.path} has no {missing}.")
        trainer.load_state_dict(state["trainer"])
        scores, best = state["scores"], state["best"]
        cpu_seconds = state.get("cpu_seconds", 0.0)
    dashboard, ledger = Dashboard(directory.dashboard, trainer.num_steps), Ledger(directory.ledger, trainer.num_steps)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), disable=not show_progress) as progress:
        bar = progress.add_task("meta-training", total=num_steps, completed=trainer.num_steps, note="")
        while trainer.num_steps < num_steps:
            metrics = trainer.step()
            ledger.append(trainer.entry)
            step, last = trainer.num_steps, trainer.num_steps == num_steps
            if compile_seconds():
                metrics["compile_seconds"] = compile_seconds()
            dashboard.scalars({f"outer/{name}": value for name, value in metrics.items()}, step)
            progress.update(bar, completed=step, note=f"meta-loss {metrics['meta_loss']:.4g}")
            if evaluator is not None and (last or step % evaluate_every == 0):
                scores, figure = evaluator(trainer.module)
                dashboard.scalars({f"held_out/{name}": value for name, value in scores.items()}, step)
                progress.console.print(f"step {step} of {num_steps}: held-out score {scores['score']:.4g}")
                if figure is not None:
                    dashboard.figure("held_out/curves", figure, step)
                if scores["score"] < best:
                    best = scores["score"]
                    save(trainer.module, directory.best)
            if last or step % checkpoint_every == 0:
                save(trainer.module, directory.weights)
                spent = cpu_seconds + time.process_time() - began
                tree = {"trainer": trainer.state_dict(), "scores": scores, "best": best, "cpu_seconds": spent}
                tree |= {} if hyperparameters is None else {"hyperparameters": dict(hyperparameters)}
                directory.save_checkpoint(tree, step)
        if compile_seconds():
            progress.console.print(f"compiling took {compile_seconds():.0f} s of this run")
    result = scores | {"best": best} if evaluator is not None else scores
    result = result | {"cpu_seconds": cpu_seconds + time.process_time() - began}
    if hyperparameters is not None and result:
        dashboard.hyperparameters(hyperparameters, {f"hparam/{name}": value for name, value in result.items()})
    dashboard.close()
    return result


def check_same(saved: Mapping[str, Any] | None, now: Mapping[str, Any] | None, directory: RunDirectory) -> None:
    """A run goes on with the settings that its state was made with, but for its length and what is written when."""
    if saved is None or now is None:
        return
    saved = BEFORE | dict(saved)
    changed = [key for key in saved.keys() & now.keys() if saved[key] != now[key] and key not in MAY_CHANGE]
    if changed:
        told = ", ".join(f"{key} was {saved[key]!r} and is {now[key]!r}" for key in sorted(changed))
        raise ValueError(
            "a run must resume with its settings (all but "
            f"{', '.join(MAY_CHANGE)}), because its state was made with them; in {directory.path} {told}."
        )

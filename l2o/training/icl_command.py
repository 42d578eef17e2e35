"""What `l2o icl` does: train a language model to adapt in context, and judge it on held-out tasks."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from l2o.files import write_atomically
from l2o.learners.adaptation import Adaptation
from l2o.learners.in_context.choice import choose_options
from l2o.learners.in_context.selection import NearestSelection, Selection, model_embedding
from l2o.learners.in_context.text import TextLearner
from l2o.load import LEARNER_FILE, load, save
from l2o.tasks.data.text_tasks import Pair, TextTask
from l2o.tasks.text_episodes import Format, Tokens, renamed
from l2o.training.config import to_plain
from l2o.training.evaluate import half_interval
from l2o.training.icl import IclConfig
from l2o.training.judge import judge
from l2o.training.metrics import Dashboard
from l2o.training.run import RunDirectory, meta_train
from l2o.types import bring, seeded


def icl(config: IclConfig, folder: Path, show_progress: bool = True) -> dict[str, Any]:
    """Train as configured, from the folder's newest checkpoint if it has one; then judge on held-out tasks.

    Returns:
        the report, which stands in the folder as `test.json` too.
    """
    config = config.resolved()
    directory = RunDirectory(folder, file=LEARNER_FILE)
    train, held_out = config.tasks()
    if not held_out:
        raise ValueError("a judgement needs tasks with test pairs: name held-out ones (--held-out), or give tests.")
    directory.write_config(to_plain(config))
    model, tokens = config.language_model(train, folder)
    adaptation, cpu_seconds = config.adaptation(model, tokens), 0.0
    if config.steps:
        trainer = config.build(adaptation, config.family(train, tokens))
        with contextlib.closing(trainer.pool):
            told = meta_train(
                trainer,
                config.steps,
                directory,
                save=save,
                evaluator=_Evaluator(config, tokens),
                evaluate_every=config.evaluate_every,
                checkpoint_every=config.checkpoint_every,
                hyperparameters=to_plain(config),
                show_progress=show_progress and sys.stdout.isatty(),
            )
        cpu_seconds = told["cpu_seconds"]
        found = load(directory.best)
        assert isinstance(found, Adaptation)
        adaptation = found
    bring(adaptation, config.device)
    judged = [judge_task(adaptation, config, tokens, task) for task in held_out]
    report = {
        "model": Path(config.model).name,
        "learner": config.learner,
        "method": config.method,
        "shot": config.shot,
        "renamed": config.renamed,
        "steps": config.steps,
        "inner_steps": config.inner_steps,
        "cpu_seconds": cpu_seconds,
        "tasks": {task.name: of.plain() for task, of in zip(held_out, judged, strict=True)},
    }
    write_atomically(directory.path / "test.json", json.dumps(report, indent=1).encode())
    dashboard = Dashboard(directory.dashboard, config.steps)
    for task, of in zip(held_out, judged, strict=True):
        dashboard.scalars({f"test/{task.name}": of.mean, f"test/{task.name} (worst)": of.worst}, config.steps)
    dashboard.close()
    return report


@dataclass(frozen=True)
class Judgements:
    """Accuracies of one task, one for each seed of options, demonstrations and test pairs.

    Arguments:
        accuracies: of each seed.
        macro_f1: of each seed.
        items: test pairs of each.
    """

    accuracies: list[float]
    macro_f1: list[float]
    items: int

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return fmean(self.accuracies)

    @property
    def worst(self) -> float:
        """Of the seeds."""
        return min(self.accuracies)

    @property
    def half_interval(self) -> float | None:
        """Half the 95% interval of the mean over seeds (Student's t); None of a single one."""
        return half_interval(torch.tensor(self.accuracies)) if len(self.accuracies) > 1 else None

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        told = {"mean": self.mean, "worst": self.worst, "half_interval": self.half_interval, "items": self.items}
        return told | {"macro_f1": fmean(self.macro_f1), "accuracies": self.accuracies}


def judge_task(adaptation: Adaptation, config: IclConfig, tokens: Tokens, task: TextTask, first: int = 0) -> Judgements:
    """Accuracy with each of several draws of options, demonstrations and test pairs.

    Arguments:
        first: number of the first draw; draws of other numbers are others.
    """
    shown, learner = config.format(tokens), adaptation.learner
    assert isinstance(learner, TextLearner)
    selection = NearestSelection(model_embedding(learner.model, tokens)) if config.selection == "nearest" else None
    accuracies, scores, items = [], [], 0
    for seed in range(first, first + config.judgements):
        options, *parts = drawn(task, config.way, config.shot, config.items, 10**6 + seed)
        if config.renamed:
            options, parts = renamed(options, parts, seeded(seed))
        demonstrations, pool, test = parts
        said = _said(adaptation, shown, options, demonstrations, pool, test, selection, config)
        accuracies.append(fmean(a == pair.output for a, pair in zip(said, test, strict=True)))
        scores.append(macro_f1(said, [pair.output for pair in test]))
        items = len(test)
    return Judgements(accuracies, scores, items)


def drawn(
    task: TextTask, way: int, shot: int, items: int, seed: int
) -> tuple[list[str], list[Pair], list[Pair], list[Pair]]:
    """Options, demonstrations in random order, the pool that they come from, and test pairs; the same for a seed.

    Test pairs are of the task's test part, or, where it has none, of what is not in the pool: half of the rest.
    """
    generator = seeded(seed)
    order = torch.randperm(len(task.options), generator=generator).tolist()
    options = sorted(task.options[i] for i in order[:way])
    shown: list[Pair] = []
    pool: list[Pair] = []
    rest: list[Pair] = []
    for option in options:
        pairs = task.of(option)
        mixed = [pairs[i] for i in torch.randperm(len(pairs), generator=generator).tolist()]
        half = len(mixed) if task.test else max(shot, len(mixed) // 2)
        shown += mixed[:shot]
        pool += mixed[:half]
        rest += task.of(option, "test") if task.test else mixed[half:]
    if not rest:
        raise ValueError(f"task {task.name!r} must have pairs to be judged by; it has none besides {shot} shots.")
    demonstrations = [shown[i] for i in torch.randperm(len(shown), generator=generator).tolist()]
    test = [rest[i] for i in torch.randperm(len(rest), generator=generator)[:items].tolist()]
    return options, demonstrations, pool, test


def _said(
    adaptation: Adaptation,
    shown: Format,
    options: Sequence[str],
    demonstrations: Sequence[Pair],
    pool: Sequence[Pair],
    test: Sequence[Pair],
    selection: Selection | None,
    config: IclConfig,
) -> list[str]:
    if selection is None:
        texts = [pair.input for pair in test]
        return choose_options(adaptation, shown, options, demonstrations, texts, config.calibrated).outputs
    said = []
    for pair in test:
        near = selection.choose(pair.input, pool, len(demonstrations), seeded(0))
        said += choose_options(adaptation, shown, options, near, [pair.input], config.calibrated).outputs
    return said


def macro_f1(said: Sequence[str], right: Sequence[str]) -> float:
    """The mean over the right outputs that there are of the harmonic mean of precision and recall."""
    each = []
    for option in set(right):
        hits = sum(a == b == option for a, b in zip(said, right, strict=True))
        each.append(2 * hits / (list(said).count(option) + list(right).count(option)))
    return fmean(each)


class _Evaluator:
    """The share of errors on the tasks that weights are chosen by, on the same episodes each time.

    No held-out task is looked at. Options have their own names, as in most judgements.
    """

    def __init__(self, config: IclConfig, tokens: Tokens) -> None:
        family = config.family(config.choosing_tasks(), tokens, query=2)
        self.config, self.family = config, replace(family, symbols=0.0)

    def __call__(self, module: nn.Module) -> tuple[dict[str, float], object]:
        assert isinstance(module, Adaptation)
        c = self.config
        found = judge(module, self.family, c.validation_episodes, (c.inner_steps,), c.seed + 10**5)
        accuracy, half = found.score(c.inner_steps)
        return {"score": 1 - accuracy, "accuracy": accuracy, "half_interval": half}, None


def show(report: dict[str, Any]) -> None:
    """The report in the terminal."""
    about = f"{report['model']}, {report['learner']}, {report['method']}, {report['shot']} shots of each option"
    about += ", options renamed" if report["renamed"] else ""
    shown = Table("held-out task", "accuracy, mean ± 95%", "worst", "macro-F1", title=about, title_justify="left")
    for name, of in report["tasks"].items():
        half = "" if of["half_interval"] is None else f" ± {100 * of['half_interval']:.1f}"
        mean = f"{100 * of['mean']:.1f}%{half}"
        shown.add_row(name, mean, f"{100 * of['worst']:.1f}%", f"{of['macro_f1']:.3f}")
    Console().print(shown)
    of = next(iter(report["tasks"].values()))
    Console().print(f"over {len(of['accuracies'])} draws of options and demonstrations, {of['items']} test pairs each")

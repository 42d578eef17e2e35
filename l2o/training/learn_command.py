"""What `l2o learn` does: train a learner, choose by validation episodes, report on test episodes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from torch import nn

from l2o.files import write_atomically
from l2o.learners.adaptation import Adaptation
from l2o.learners.batch_norm import BatchNorm
from l2o.load import LEARNER_FILE, load, save
from l2o.saved import to_bytes
from l2o.training.config import read_config, to_plain
from l2o.training.episode_suites import EpisodeSuite, Shape, load_episodes
from l2o.training.judge import Judgement, judge, measure
from l2o.training.learn import LearnConfig
from l2o.training.meta_trainer import MetaTrainer
from l2o.training.report import plain
from l2o.training.run import RunDirectory, meta_train
from l2o.types import bring


def learn(config: LearnConfig, folder: Path, show_progress: bool = True) -> dict[str, Any]:
    """Train as configured, from the folder's newest checkpoint if it has one; then report on test episodes.

    Returns:
        the report, which stands in the folder as `test.json` too.
    """
    config = config.resolved()
    directory, suite = RunDirectory(folder, file=LEARNER_FILE), config.suite()
    directory.write_config(to_plain(config))
    # what goes on needs no start, which may be gone
    begun = dataclasses.replace(config, start=None, encoder=None) if directory.checkpoints() else config
    adaptation = begun.adaptation(suite)
    to_bytes(adaptation, {})  # what cannot be saved is told before it is trained
    trainer = config.build(suite, adaptation)
    with contextlib.closing(trainer.pool):
        trained = _train(trainer, config, suite, directory, show_progress)
    return report(config, suite, directory, {"cpu_seconds": trained["cpu_seconds"], "steps": config.steps})


def _train(
    trainer: MetaTrainer, config: LearnConfig, suite: EpisodeSuite, directory: RunDirectory, show_progress: bool
) -> dict[str, float]:
    return meta_train(
        trainer,
        config.steps,
        directory,
        save=partial(_save, suite),
        evaluator=_Evaluator(config, suite),
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        hyperparameters=to_plain(config),
        show_progress=show_progress and sys.stdout.isatty(),
    )


def _save(suite: EpisodeSuite, module: nn.Module, path: Path) -> None:
    """Save a learner with its `running` statistics measured."""
    assert isinstance(module, Adaptation)
    measure(module, suite.train)
    save(module, path)


def report(config: LearnConfig, suite: EpisodeSuite, directory: RunDirectory, notes: dict[str, Any]) -> dict[str, Any]:
    """Judge the run's best learner on test episodes.

    Arguments:
        notes: to be told with it.
    """
    if not directory.best.exists():
        raise ValueError(
            "a run must have a finite score in one of its evaluations to be reported on; that of "
            f"{directory.path} has none: its rates may be too high."
        )
    best = bring(load(directory.best), config.device)
    assert isinstance(best, Adaptation) and config.test_steps is not None
    steps = range(max(config.test_steps, 10) + 1) if best.rule is not None and config.test_steps else (0,)
    found = judge(best, suite.test, config.test_episodes, steps, seed=config.seed + 10**6, calibration=suite.train)
    facts = {"learner": config.learner, "data": config.data, "way": config.way, "shot": config.shot}
    facts |= {"inner_steps": config.inner_steps, **notes}
    told = _told(facts, found, _measure(best, suite), config.test_steps)
    write_atomically(directory.path / "test.json", json.dumps(told, indent=1).encode())
    return told


def _measure(adaptation: Adaptation, suite: EpisodeSuite) -> str:
    return "accuracy" if suite.classifies else adaptation.learner.measure


def _told(facts: dict[str, Any], found: Judgement, measure: str, steps: int) -> dict[str, Any]:
    """A judgement as plain values."""
    return {
        **facts,
        "episodes": len(found.scores),
        "test_steps": steps,
        "measure": measure,
        "score": plain(found.score(steps)[0]),
        "half_interval": plain(found.score(steps)[1]),
        "by_steps": {str(step): [plain(value) for value in found.score(step)] for step in found.steps},
    }


@dataclass(frozen=True)
class JudgeConfig:
    """Judge a trained learner on episodes, of another shape or source than it was trained on if so wished.

    Arguments:
        learner: the folder of a run, or a saved file.
        data: a named source of episodes, a folder of pictures, or `module:object`, as for `l2o learn`; None for that
            of the run (omniglot for a file without one).
        way: classes in an episode; None for the run's, or 5.
        shot: support examples of each class, or support points; None for the run's, or 1.
        query: query examples of each class; None for the run's, or 15.
        steps: inner steps; several to compare them; those of the run's report if empty, or the learner's own.
        episodes: how many.
        seed: of the episodes.
        norm: statistics of normalisation, other than the learner's own: batch (queries are judged together) or running.
        part: test, or validation where choices are to be made.
        threads: CPU threads; 0 leaves torch's choice.
        device: where to compute: cpu, cuda, ...
    """

    learner: str
    data: str | None = None
    way: int | None = None
    shot: int | None = None
    query: int | None = None
    steps: tuple[int, ...] = ()
    episodes: int = 1000
    seed: int = 10**6
    norm: Literal["batch", "running"] | None = None
    part: Literal["test", "validation"] = "test"
    threads: int = 0
    device: str = "cpu"


def judge_saved(config: JudgeConfig) -> dict[str, Any]:
    """The report on a saved learner; of a run it is the best one, on episodes like the run's where not said otherwise.

    Raises:
        ValueError: the file holds no learner.
    """
    usual: dict[str, Any] = {"data": "omniglot", "way": 5, "shot": 1, "query": 15}
    path = Path(config.learner)
    steps: tuple[int, ...] = config.steps
    if path.is_dir() and (path / "config.yaml").is_file():
        run = read_config(path / "config.yaml", LearnConfig).resolved()
        usual = {name: getattr(run, name) for name in usual}
        directory = RunDirectory(path, file=LEARNER_FILE)
        path = directory.best if directory.best.is_file() else directory.weights
        steps = steps or (run.test_steps or 0,)
    adaptation = load(path)
    if not isinstance(adaptation, Adaptation):
        raise ValueError(f"{config.learner} must hold a learner; it holds a {type(adaptation).__name__}.")
    chosen = {name: value if getattr(config, name) is None else getattr(config, name) for name, value in usual.items()}
    way, shot, query = (int(chosen[name]) for name in ("way", "shot", "query"))
    suite = load_episodes(str(chosen["data"]), Shape(way, shot, query, way, shot, query))
    if getattr(adaptation.learner, "way", None) is not None and suite.classifies:
        setattr(adaptation.learner, "way", way)  # noqa: B010 - not all learners have one; no weights depend on it
    for m in adaptation.modules():
        if isinstance(m, BatchNorm) and config.norm is not None:
            m.use(config.norm)
    bring(adaptation, config.device)
    steps = steps or (adaptation.steps,)
    family = suite.test if config.part == "test" else suite.validation
    found = judge(adaptation, family, config.episodes, steps, config.seed)
    facts = {"learner": Path(config.learner).name, "data": chosen["data"], "way": way, "shot": shot}
    return _told(facts, found, _measure(adaptation, suite), steps[-1])


class _Evaluator:
    """Scores of the learner in training on validation episodes, the same ones each time."""

    def __init__(self, config: LearnConfig, suite: EpisodeSuite) -> None:
        self.config, self.suite = config, suite

    def __call__(self, module: nn.Module) -> tuple[dict[str, float], object]:
        assert isinstance(module, Adaptation) and self.config.test_steps is not None
        c = self.config
        steps = (0, c.test_steps) if c.test_steps else (0,)
        found = judge(
            module, self.suite.validation, c.validation_episodes, steps, c.seed + 10**5, calibration=self.suite.train
        )
        return self._scores(found), None

    def _scores(self, found: Judgement) -> dict[str, float]:
        mean, half = found.score(found.steps[-1])
        if not self.suite.classifies:
            return {"score": mean, "half_interval": half}
        return {"score": 1 - mean, "accuracy": mean, "half_interval": half}


def show(told: dict[str, Any]) -> None:
    """The report in the terminal."""
    way = f"{told['way']}-way " if told["measure"] == "accuracy" else ""
    title = f"{told['learner']} on {told['data']}, {way}{told['shot']}-shot, {told['episodes']} episodes"
    shown = Table("steps", f"{told['measure']}, 95% interval", title=title, title_justify="left")
    for step, (mean, half) in told["by_steps"].items():
        scale, unit, digits = (100, "%", 2) if told["measure"] == "accuracy" else (1, "", 4)
        number = "not finite" if mean is None else f"{scale * mean:.{digits}f}{unit}"
        number += "" if half is None else f" ± {scale * half:.{digits}f}"
        shown.add_row(step, number, style="bold" if int(step) == told["test_steps"] else "")
    Console().print(shown)

"""What `l2o meta-train` does: meta-train as configured, scored on held-out tasks beside tuned baselines."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from torch import nn

from l2o.load import save
from l2o.rules.base import UpdateRule
from l2o.training import report
from l2o.training.baselines import baselines
from l2o.training.config import MetaTrainConfig, to_plain
from l2o.training.evaluate import Contestant, Result, compare
from l2o.training.run import RunDirectory, meta_train
from l2o.training.suites import Suite
from l2o.types import device_of


def train(config: MetaTrainConfig, folder: Path, show_progress: bool = True) -> dict[str, float]:
    """Meta-train as configured, from the folder's newest checkpoint if it has one; returns the last scores."""
    config = config.resolved()
    directory, suite = RunDirectory(folder), config.suite()
    directory.write_config(to_plain(config))
    trainer = config.build(suite)
    with contextlib.closing(trainer.pool):
        return meta_train(
            trainer,
            config.steps,
            directory,
            save=save,
            evaluator=Evaluator(suite),
            evaluate_every=config.evaluate_every,
            checkpoint_every=config.checkpoint_every,
            hyperparameters=to_plain(config),
            show_progress=show_progress and sys.stdout.isatty(),
        )


class Evaluator:
    """Held-out curves of the rule in training against baselines, whose swept curves are computed once."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.baselines: list[Result] | None = None

    def __call__(self, rule: nn.Module) -> tuple[dict[str, float], object]:
        if self.baselines is None:
            tuned = baselines()
            for one in tuned.values():
                one.rule.to(device_of(rule))
            self.baselines = self._compare(tuned)
        scores, learned = self.scores(rule)
        try:
            return scores, report.figure(learned + self.baselines)
        except ImportError:
            return scores, None

    def scores(self, rule: nn.Module) -> tuple[dict[str, float], list[Result]]:
        """The rule alone: `score` is what the suite says, averaged over tasks; lower is better."""
        assert isinstance(rule, UpdateRule)
        learned = self._compare({"learned": Contestant(rule)})
        scores = {"score": sum(self._score(r) for r in learned) / len(learned)}
        for result in learned:
            scores[f"final_loss/{result.task}"] = float(result.final.mean())
        return scores, learned

    def _score(self, result: Result) -> float:
        if self.suite.score == "area":
            return float(result.area.mean())
        return float(result.log_share.mean())

    def _compare(self, contestants: dict[str, Contestant]) -> list[Result]:
        return compare(contestants, self.suite.validation, self.suite.num_steps, num_seeds=3, seed=1000)

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import claims, learners
from benchmarks.gaussian_classes import Config, run
from l2o.training import learn
from l2o.training.episode_settings import OWN


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return list(run(Config(("maml",), train_episodes=64, episodes=8, out=folder)))


def test_a_run_is_finished_once_and_only_with_the_settings_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *limits, trained = rows_of(tmp_path)
    assert [row["learner"] for row in limits] == ["exact Bayes", "nearest class mean"]
    assert trained["steps"] == 4 and trained["train_episodes"] == 64 and trained["lr"] == 1e-3
    assert rows_of(tmp_path)[-1] == trained
    report = tmp_path / "maml_64ep_0" / "test.json"
    report.write_text(json.dumps(json.loads(report.read_text()) | {"score": 0.123}))
    assert rows_of(tmp_path)[-1]["score"] == 0.123  # it was not trained again
    monkeypatch.setattr(learn, "OWN", OWN | {("gaussian-classes", "maml"): {"inner_steps": 2}})
    with pytest.raises(ValueError, match="inner_steps was 1 and is 2"):
        rows_of(tmp_path)


def test_tables_hold_the_best_rate_by_other_episodes_and_longer_runs_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(score: float, choice: float, lr: float, optimizer: str = "Adam", episodes: int = 80_000) -> dict[str, Any]:
        facts = {"learner": "maml", "seed": 0, "steps": 5, "half_interval": 0.001, "cpu_seconds": 60, "trained_at": "c"}
        facts |= {"optimizer": optimizer, "train_episodes": episodes, "episodes": 4000, "machine": "m"}
        return facts | {"score": score, "choice": choice, "lr": lr}

    limit = {"learner": "exact Bayes", "score": 0.8247}
    few = [row(0.79, 0.80, 0.001), row(0.80, 0.79, 0.01), row(0.81, 0.9, 1.0, "default")]
    rows = [limit, *few, row(0.82, 0.8, 0.001, episodes=240_000), row(0.83, 0.8, 0.001, episodes=160_000)]
    monkeypatch.setattr(learners, "read", lambda name: rows)
    usual = "| maml | 0.7900 ± 0.0010 | 0.001 (of 2) | 0.8100 ± 0.0010 | 1.0, 1.0 | +0.0200 |"
    assert usual in learners.gaussian_classes() and learners.gaussian_classes().count("| maml |") == 1
    longer = [line for line in learners.gaussian_classes_longer().splitlines() if line.startswith("| maml")]
    assert longer == [
        "| maml | 160,000 | 0.8300 ± 0.0010 | 0.001 |  | 1.0 |  |",
        "| maml | 240,000 | 0.8200 ± 0.0010 | 0.001 |  | 1.0 |  |",
    ]


def test_the_claim_counts_learners_that_are_apart_by_more_than_their_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"seed": 0, "steps": 5, "half_interval": 0.003, "train_episodes": 80_000}

    def rows(learner: str, *scores: float) -> list[dict[str, Any]]:
        names = ["default", *["Adam"] * 3]
        return [
            facts | {"learner": learner, "optimizer": name, "score": score, "choice": score, "lr": i}
            for i, (name, score) in enumerate(zip(names, scores, strict=False))
        ]

    found = [*rows("one", 0.80, 0.70, 0.75, 0.79), *rows("two", 0.794, 0.6, 0.79), *rows("three", 0.7, 0.8)]
    monkeypatch.setattr(learners, "read", lambda name: [*found, *rows("four", 0.9), *rows("five", 0.6, 0.5)])
    told = claims._outer()
    assert told.startswith("80,000 episodes, one seed: accuracy differs by more than the 95% interval on 3 of 4: ")
    assert "where Adam had its best of several rates (2 learners) 1 higher, 0 lower" in told
    assert "where Adam had its usual rate (2 learners) 1 higher, 1 lower" in told
    assert told.endswith("Furthest apart with several rates: one 0.800 beside 0.790, two 0.794 beside 0.790")

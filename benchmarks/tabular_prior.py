"""Does a prior-fitted network beat classifiers that are fitted to each table, where there are 100 rows or fewer?

    python -m benchmarks.tabular_prior --record

The network is trained on synthetic tables alone (`l2o learn --learner pfn --data tabular-prior`), going on from its
last checkpoint if it was stopped, and then answers for 15 tables of OpenML-CC18 in one pass. Others are scikit-learn's,
their settings chosen by cross-validation on the training rows, among those below. All see the same rows and columns,
standardised by the training rows, missing values at the mean.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.interval import half_width
from benchmarks.record import commit, keep, markdown, read
from l2o.files import write_atomically
from l2o.learners import PriorFittedNetwork
from l2o.load import load
from l2o.tasks.data import CC18, LabelledDataset, cc18
from l2o.tasks.episodes import Examples
from l2o.tasks.tabular import standardised
from l2o.tasks.tabular_prior import filled
from l2o.training.learn import LearnConfig
from l2o.training.learn_command import learn
from l2o.types import seeded

PFN = "prior-fitted network"


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        steps: outer steps of the network.
        seed: of its weights and training tables.
        rows: numbers of training rows.
        splits: of each table, for each number.
        test_rows: at most.
        tables: by name; all if empty.
        shifts: orders of columns and names of classes that the network's answer is the mean over.
        threads: CPU threads.
        out: folder of the run and rows.
        record: keep the rows in benchmarks/results.
    """

    steps: int = 16_000
    seed: int = 0
    rows: tuple[int, ...] = (25, 50, 100)
    splits: int = 10
    test_rows: int = 300
    tables: tuple[str, ...] = ()
    shifts: int = 4
    threads: int = 1
    out: Path = Path("runs/tabular_prior")
    record: bool = False


def trained(config: Config) -> tuple[PriorFittedNetwork, dict[str, Any]]:
    """The network, and what its run says; it is made, or brought to its end, if it is not there."""
    folder = config.out / f"pfn_{config.seed}"
    report, began = folder / "test.json", folder / "commit.txt"
    if not began.exists():
        write_atomically(began, commit().encode())
    told = json.loads(report.read_text()) if report.exists() else {}
    if told.get("steps") != config.steps:
        every = max(1, config.steps // 40)
        settings = LearnConfig(
            learner="pfn",
            data="tabular-prior",
            steps=config.steps,
            seed=config.seed,
            threads=config.threads,
            warmup=config.steps // 20,
            evaluate_every=every,
            checkpoint_every=every,
            validation_episodes=300,
        )
        told = learn(settings, folder, show_progress=False)
    learner = load(folder / "best.safetensors").learner.eval()
    learner.shifts = config.shifts
    return learner, told | {"trained_at": began.read_text()}


Classifier = Callable[[Tensor, Tensor, Tensor, int], np.ndarray]
"""From training rows, labels, test rows and the number of classes: probabilities of the test rows' classes."""


def of_network(learner: PriorFittedNetwork) -> Classifier:
    """The network's answer."""

    @torch.no_grad()
    def classify(x: Tensor, y: Tensor, unseen: Tensor, classes: int) -> np.ndarray:
        x, unseen = (filled(part, learner.inputs) for part in (x, unseen))
        prediction = learner.predict(learner.start(Examples(x, y)), unseen)
        return prediction[:, :classes].softmax(-1).numpy()

    return classify


def of_sklearn(make: Callable[[], Any], choices: dict[str, list[Any]]) -> Classifier:
    """A classifier with its settings chosen by cross-validation on the training rows."""

    def classify(x: Tensor, y: Tensor, unseen: Tensor, classes: int) -> np.ndarray:
        from sklearn.model_selection import GridSearchCV, KFold

        found = np.full((len(unseen), classes), 1e-6)
        seen = y.unique()
        if len(seen) == 1:
            found[:, int(seen)] = 1.0
            return found
        search = GridSearchCV(make(), choices, cv=KFold(4, shuffle=True, random_state=0), error_score=0.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of folds without a class, of iterations
            search.fit(x.numpy(), y.numpy())
            found[:, search.classes_] = search.predict_proba(unseen.numpy())
        return found

    return classify


def baselines() -> dict[str, Classifier]:
    """By name."""
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    return {
        "logistic regression": of_sklearn(
            lambda: LogisticRegression(max_iter=1000), {"C": [0.001, 0.01, 0.1, 1.0, 10.0, 100.0]}
        ),
        "k nearest neighbours": of_sklearn(
            KNeighborsClassifier, {"n_neighbors": [1, 3, 5, 9, 15], "weights": ["uniform", "distance"]}
        ),
        "gradient boosting": of_sklearn(
            lambda: GradientBoostingClassifier(random_state=0),
            {"n_estimators": [30, 100], "max_depth": [1, 3], "learning_rate": [0.1]},
        ),
    }


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a method, table and number of training rows."""
    learner, told = trained(config)
    methods = {PFN: of_network(learner), **baselines()}
    trained_as = {"steps": told["steps"], "training_seconds": told["cpu_seconds"], "trained_at": told["trained_at"]}
    for name in config.tables or CC18:
        table = cc18(name)
        for rows in config.rows:
            for method, classify in methods.items():
                yield {
                    "method": method,
                    "table": name,
                    "rows": rows,
                    **judged(classify, table, rows, config),
                    **(trained_as if method == PFN else {}),
                }


def judged(classify: Classifier, table: LabelledDataset, rows: int, config: Config) -> dict[str, Any]:
    """Accuracy and log loss on the same splits for all."""
    accuracies, losses, begun = [], [], time.process_time()
    for split in range(config.splits):
        order = torch.randperm(len(table.y), generator=seeded(split))
        train, test = order[:rows], order[rows : rows + config.test_rows]
        x, unseen = standardised(table.select(train), table.select(test))
        chances = classify(x, table.y[train], unseen, table.num_classes)
        y = table.y[test].numpy()
        accuracies.append(float((chances.argmax(1) == y).mean()))
        chances = np.clip(chances / chances.sum(1, keepdims=True), 1e-6, 1.0)
        losses.append(float(-np.log(chances[np.arange(len(y)), y]).mean()))
    return {
        "accuracy": float(np.mean(accuracies)),
        "accuracies": accuracies,
        "log_loss": float(np.mean(losses)),
        "cpu_seconds": (time.process_time() - begun) / config.splits,
    }


def table() -> str:
    """The recorded rows in Markdown: means over tables."""
    rows = read("tabular_prior")
    network, config = next(row for row in rows if row["method"] == PFN), rows[0]["config"]
    caption = (
        f"Means over {len({row['table'] for row in rows})} tables of OpenML-CC18, {config['splits']} splits of each, "
        f"at most {config['test_rows']} test rows; the difference is paired by table, 95% interval over tables. The "
        f"network saw synthetic tables alone, {network['steps']:,} steps, {network['training_seconds'] / 60:.0f} CPU "
        f"minutes, and answers by the mean of {config['shifts']} orders of columns and classes. One thread of "
        f"{rows[0]['machine']}, commits {', '.join(sorted({network['trained_at'], rows[0]['commit']}))}."
    )
    return markdown(*lines_of(rows), caption)


def lines_of(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """By number of training rows and method."""
    lines = []
    for num in dict.fromkeys(row["rows"] for row in rows):
        of = [row for row in rows if row["rows"] == num]
        best = {t: max(r["accuracy"] for r in of if r["table"] == t) for t in {row["table"] for row in of}}
        network = {row["table"]: row["accuracy"] for row in of if row["method"] == PFN}
        for method in dict.fromkeys(row["method"] for row in of):
            own = [row for row in of if row["method"] == method]
            accuracy, loss, seconds = (
                float(np.mean([row[key] for row in own])) for key in ("accuracy", "log_loss", "cpu_seconds")
            )
            more = torch.tensor([100 * (network[row["table"]] - row["accuracy"]) for row in own])
            cells = [str(num), method, f"{100 * accuracy:.1f}%"]
            cells += ["" if method == PFN else f"{more.mean():+.1f} ± {half_width(more):.1f}", f"{loss:.3f}"]
            cells += [f"{sum(row['accuracy'] == best[row['table']] for row in own)} of {len(own)}", f"{seconds:.2f}"]
            lines.append(cells)
    heads = ["training rows", "method", "accuracy", "the network has more by, points", "log loss", "best of all on"]
    return [*heads, "CPU s a table"], lines


def main(config: Config) -> None:
    """Train, judge, write, show."""
    torch.set_num_threads(config.threads)
    rows = list(run(config))
    keep("tabular_prior", config, rows)
    heads, lines = lines_of(rows)
    shown = Table(*heads)
    for cells in lines:
        shown.add_row(*cells)
    Console(width=140).print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

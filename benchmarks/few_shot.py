"""What do the learners reach on Omniglot, from `l2o learn` as it stands?

    python -m benchmarks.few_shot --only prototypical maml --record
    python -m benchmarks.few_shot --only snail --device cuda --record

SNAIL, the LSTM and the hypernetwork see so many episodes that a GPU should train them, and begin with the encoder of
the prototypical network. Needs Omniglot (found or downloaded, see `l2o.tasks.data.omniglot`). Each run goes on from its
last checkpoint if it was stopped, and is judged on 1,000 episodes of the 423 test characters, which nothing was chosen
by.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.record import commit, keep
from l2o.learners.metric.siamese import pairs, verification_accuracy
from l2o.load import LEARNER_FILE, load
from l2o.tasks.data import omniglot_classes
from l2o.training import ledger
from l2o.training.config import read_config, to_plain
from l2o.training.learn import LearnConfig
from l2o.training.learn_command import JudgeConfig, judge_saved
from l2o.training.run import RunDirectory, check_same
from l2o.types import seeded

RUNS: dict[str, dict[str, Any]] = {
    "prototypical": {"steps": 6000, "precision": "bfloat16", "evaluate_every": 500},
    "reptile": {"steps": (15000, 40000), "train_query": 1, "evaluate_every": 1500, "validation_episodes": 50},
    "relation": {"steps": (10000, 25000), "precision": "bfloat16", "evaluate_every": 500},
    "matching": {"steps": 8000, "precision": "bfloat16", "evaluate_every": 500},
    "siamese": {"steps": 8000, "precision": "bfloat16", "evaluate_every": 500},
    "maml": {
        "steps": (8000, 20000, 34000),
        "num_episodes": 16,
        "train_query": 5,
        "evaluate_every": 1000,
        "validation_episodes": 100,
    },
    "snail": {"steps": 6000, "num_episodes": 64, "evaluate_every": 500, "encoder": "prototypical"},
    "versa": {"steps": 4500, "num_episodes": 16, "evaluate_every": 750},
    "lstm": {"steps": 37000, "num_episodes": 64, "lr": 3e-3, "evaluate_every": 500, "encoder": "prototypical"},
    "hypernetwork": {"steps": 8750, "num_episodes": 64, "evaluate_every": 500, "encoder": "prototypical"},
}
"""Settings of `l2o learn` beside those of each learner's paper. Several numbers of steps are stages: the run is resumed
with the next one, so that the learning rate rises again and comes down over the rest. An encoder is that of another of
these runs, which must have been made."""

ALSO = {"prototypical": (20,)}
"""Other numbers of classes that the same learner is judged on."""

TRANSDUCTIVE = ("relation",)
"""Judged by the statistics of the batch as well, as its authors do."""

TARGETS = {
    "prototypical": 98.5,
    "maml": 98.3,
    "relation": 99.0,
    "matching": 97.9,
    "siamese": 97.0,
    "reptile": 97.0,
    "snail": 98.0,
    "versa": 98.0,
}
"""Accuracy to reach, percent, 5-way 1-shot."""


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        only: learners; all if empty.
        threads: CPU threads of a run.
        device: where learners are trained, and judged at the end of a run; what is judged again is on the CPU.
        finish: bring runs to their end; else those that were stopped are judged by the best they had come to.
        out: folder of the runs and rows.
        record: keep the rows in benchmarks/results.
    """

    only: tuple[str, ...] = ()
    threads: int = 1
    device: str = "cpu"
    finish: bool = True
    out: Path = Path("runs/few_shot")
    record: bool = False


def stages(learner: str) -> tuple[int, ...]:
    """The numbers of outer steps that a run is brought to, one after the other."""
    steps = RUNS[learner]["steps"]
    return steps if isinstance(steps, tuple) else (steps,)


def settings_of(config: Config, learner: str) -> dict[str, Any]:
    """As in `RUNS`, an encoder by its folder.

    Raises:
        ValueError: the encoder's run is not there, or not at its end.
    """
    settings = dict(RUNS[learner])
    if "encoder" in settings:
        folder = config.out / settings["encoder"]
        if trained(folder) < stages(settings["encoder"])[-1]:
            raise ValueError(f"{learner} begins with the encoder of another run, which must be made first: {folder}.")
        settings["encoder"] = str(folder)
    return settings


def command(config: Config, learner: str, steps: int) -> list[str]:
    """The command that trains a learner to so many steps, or goes on with it."""
    folder = config.out / learner
    if list(folder.glob("checkpoints/*")):
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(re.sub(r"(?m)^steps: \d+$", f"steps: {steps}", text))
        return ["learn", "--resume", str(folder)]
    common = {
        "learner": learner,
        "threads": config.threads,
        "device": config.device,
        "checkpoint_every": 200,
        "run": folder,
    }
    settings = common | settings_of(config, learner) | {"steps": steps}
    return [
        "learn",
        *(part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))),
    ]


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a learner."""
    for learner in config.only or RUNS:
        folder = config.out / learner
        folder.mkdir(parents=True, exist_ok=True)
        began = folder / "commit.txt"
        if not began.exists():
            began.write_text(commit())
        if (folder / "config.yaml").exists():  # its row would tell these settings
            had = to_plain(read_config(folder / "config.yaml", LearnConfig))
            had.pop("validation_episodes")  # says how well it is judged on the way
            check_same(had, settings_of(config, learner), RunDirectory(folder, file=LEARNER_FILE))
        for steps in stages(learner) if config.finish else ():
            if trained(folder) < steps:
                words = command(config, learner, steps)
                subprocess.run([sys.executable, "-m", "l2o.cli", *words], check=True)
        if not made(folder):
            raise ValueError(f"a run must have begun to be judged as it is (--no-finish); {folder} has none.")
        at_end = made(folder) <= trained(folder)
        told = json.loads((folder / "test.json").read_text()) if at_end else stopped(folder, config.threads)
        norm = LearnConfig(learner=learner).resolved().norm
        more = {
            "trained_at": began.read_text(),
            "settings": RUNS[learner],
            "norm": norm,
            "device": device_of_run(folder),
        }
        for way in ALSO.get(learner, ()):
            yield {**judge_saved(JudgeConfig(str(folder / "best.safetensors"), way=way)), **more} | {"learner": learner}
        if learner in TRANSDUCTIVE:
            together = judge_saved(JudgeConfig(str(folder / "best.safetensors"), norm="batch"))
            yield {**together, **more, "learner": learner, "norm": "batch"}
        more |= {"target": TARGETS.get(learner)}
        yield {**told, **more} | ({"verification": verification(folder)} if learner == "siamese" else {})


def verification(folder: Path, num: int = 10000) -> float:
    """The share of pairs of test drawings of which the siamese network says rightly whether they are one character."""
    adaptation = load(folder / "best.safetensors").eval()
    return verification_accuracy(adaptation.learner, pairs(omniglot_classes("test"), num, seeded(0)))


def device_of_run(folder: Path) -> str:
    """Where it was trained."""
    return read_config(folder / "config.yaml", LearnConfig).device


def stopped(folder: Path, threads: int) -> dict[str, Any]:
    """The report of a run as it was left, on its best learner so far."""
    return {**judge_saved(JudgeConfig(str(folder), threads=threads)), "steps": made(folder), "stopped": True}


def made(folder: Path) -> int:
    """The outer steps of a run so far, finished or not; 0 if there is none."""
    path = folder / "ledger.jsonl"
    lines = ledger.read(path) if path.exists() else []
    return int(lines[-1]["step"]) if lines else 0


def trained(folder: Path) -> int:
    """The outer steps that the last finished stage of a run ended at; 0 if there is none."""
    report = folder / "test.json"
    return int(json.loads(report.read_text())["steps"]) if report.exists() else 0


def main(config: Config) -> None:
    """Train, judge, write, show."""
    rows = list(run(config))
    keep("few_shot", config, rows, by=("learner", "way", "norm"))
    shown = Table("learner", "way", "accuracy, 95%", "target", "CPU minutes", title="Omniglot, 1 shot")
    for row in rows:
        score = f"{100 * row['score']:.2f} ± {100 * row['half_interval']:.2f}"
        minutes = f"{row['cpu_seconds'] / 60:.0f}" if "cpu_seconds" in row else ""
        shown.add_row(row["learner"], str(row["way"]), score, str(row.get("target", "")), minutes)
    Console().print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

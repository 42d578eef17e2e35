"""Does a learned optimizer beat SGD, momentum and Adam on networks that it never saw?

Meta-trains the coordinatewise LSTM and the per-parameter MLP (truncated backpropagation) on small perceptrons over
half of the digits data, then trains held-out networks (other widths, other initial parameters, the other half of
the data) with them and with the hand-designed optimizers at their best of 11 learning rates.

    python -m benchmarks.quickstart                       # what `make quickstart` runs
    python -m benchmarks.quickstart --record              # also keeps the rows in benchmarks/results
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
import yaml
from rich.console import Console

from benchmarks.record import RESULTS, write
from l2o.load import load
from l2o.training import report
from l2o.training.baselines import baselines
from l2o.training.config import MetaTrainConfig, to_plain
from l2o.training.evaluate import Contestant, Result, compare
from l2o.training.run import RunDirectory
from l2o.training.suites import load_suite

LSTM = MetaTrainConfig(rule="lstm", estimator="backprop", num_tasks=2, log=True, lr=1e-2, steps=2400, threads=1)
MLP = MetaTrainConfig(
    rule="mlp",
    tasks="digits-mlp-wide",
    estimator="backprop",
    order="full",
    num_tasks=4,
    log=True,
    lr=1e-2,
    steps=1000,
    threads=1,
)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        lstm, mlp: how the two rules are meta-trained.
        num_steps: length of a held-out run, the meta-trained horizon.
        num_seeds: runs of each held-out network.
        run: where weights, dashboard, table and picture go.
        record: keep rows and picture in benchmarks/results too.
    """

    lstm: MetaTrainConfig = LSTM
    mlp: MetaTrainConfig = MLP
    num_steps: int = 100
    num_seeds: int = 10
    run: Path = Path("runs/quickstart")
    record: bool = False


def train_both(config: Config) -> None:
    """Meta-train the two rules side by side, one process and one thread each, going on where an earlier try stopped."""
    processes = []
    for name, settings in (("lstm", config.lstm), ("mlp", config.mlp)):
        folder = config.run / name
        if RunDirectory(folder).checkpoints():
            command = ["--resume", str(folder)]
        else:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "settings.yaml").write_text(yaml.safe_dump(to_plain(settings)))
            command = ["--config", str(folder / "settings.yaml"), "--run", str(folder)]
        log = None if name == "lstm" else open(folder / "log.txt", "w")  # noqa: SIM115
        command = [sys.executable, "-m", "l2o.cli", "meta-train", *command]
        processes.append(subprocess.Popen(command, stdout=log))
    if any([process.wait() for process in processes]):
        raise SystemExit(f"meta-training failed; see the messages above and {config.run}/mlp/log.txt")


def evaluate(config: Config) -> list[Result]:
    """Held-out networks, trained by the learned rules as they are and by the others at their best rate."""
    contestants = {
        "LSTM": Contestant(load(config.run / "lstm")),
        "MLP": Contestant(load(config.run / "mlp")),
    }
    return compare(contestants | baselines(), load_suite(config.lstm.tasks).test, config.num_steps, config.num_seeds)


def main(config: Config) -> None:
    """Train, compare, show."""
    console = Console()
    console.print(
        f"meta-training an LSTM and an MLP optimizer on digits networks; dashboard: tensorboard --logdir {config.run}"
    )
    start = time.monotonic()
    train_both(config)
    minutes = (time.monotonic() - start) / 60
    console.print(f"meta-training took {minutes:.1f} minutes; comparing on held-out networks ...")
    results = evaluate(config)
    rows = [row | {"meta_train_minutes": minutes} for row in report.rows(results, ("Adam",))]
    figure = report.figure(results, "Held-out digits networks: learned optimizers against tuned ones")
    folders = [config.run, RESULTS] if config.record else [config.run]
    for folder in folders:
        write("quickstart", config, rows, folder)
        figure.savefig(folder / "quickstart.png", dpi=130)
    title = f"held-out digits networks, training loss after {config.num_steps} steps, {config.num_seeds} seeds"
    console.print(report.table(results, title, "Adam"))
    console.print(f"picture and rows: {', '.join(str(folder / 'quickstart.*') for folder in folders)}")
    console.print(f"use it: l2o.LearnedOptimizer(model.parameters(), rule='{config.run}/lstm')")


if __name__ == "__main__":
    try:
        main(tyro.cli(Config))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from the last checkpoint")

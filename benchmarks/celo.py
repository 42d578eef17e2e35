"""The optimizer in the box beside Celo's released weights, on networks for 8x8 digits.

    python -m benchmarks.celo --weights FOLDER --record        # with celo_theta.npz and celo_adam_theta.npz
    python -m benchmarks.celo --only "perceptron 32" --record  # adds to the rows there are

Both have been meta-trained on small networks for 8x8 images: Celo for 24 GPU hours on MNIST, Fashion-MNIST, CIFAR-10
and SVHN, ours on one half of the digits and other data. All train on the other half here, from the same initial weights
on the same batches, beside Adam at a constant rate, the best of seven for each network on these very runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console

from benchmarks.record import keep
from l2o.load import load
from l2o.rules import Adam
from l2o.tasks import Autoencoder, ConvClassification, MLPClassification, Task
from l2o.tasks.data import digits
from l2o.training import report
from l2o.training.evaluate import Contestant, compare

RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        weights: folder of the released files; by default learned_optimizers in the folder that L2O_DATA names.
        rule: ours.
        only: networks; all if empty.
        num_steps: of a run.
        num_seeds: runs of each network.
        threads: CPU threads.
        out: folder of the rows.
        record: keep the rows in benchmarks/results.
    """

    weights: Path | None = None
    rule: str = "default"
    only: tuple[str, ...] = ()
    num_steps: int = 1000
    num_seeds: int = 5
    threads: int = 1
    out: Path = Path("runs/celo")
    record: bool = False


def networks() -> dict[str, Task]:
    """What is trained, in batches of 64."""
    _, unseen = digits().split(0.5, seed=0)
    return {
        "perceptron 32": MLPClassification(unseen, 64, (32,), "relu"),
        "perceptron 128-128": MLPClassification(unseen, 64, (128, 128), "relu"),
        "perceptron 512-512-512": MLPClassification(unseen, 64, (512, 512, 512), "relu"),
        "convolutions 16-32": ConvClassification(unseen, 64, (16, 32)),
        "autoencoder 32-16-32": Autoencoder(unseen, 64, (32,), 16),
    }


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a network and method."""
    folder = config.weights or Path(os.environ.get("L2O_DATA", ".")) / "learned_optimizers"
    contestants = {
        "l2o": Contestant(load(config.rule)),
        "Celo": Contestant(load(folder / "celo_theta.npz")),
        "Celo-Adam": Contestant(load(folder / "celo_adam_theta.npz")),
        "Adam": Contestant(Adam(1.0), RATES),
    }
    for name, task in networks().items():
        if not config.only or name in config.only:
            results = compare(contestants, {name: task}, config.num_steps, config.num_seeds)
            Console().print(report.table(results, baseline="Adam"))
            yield from report.rows(results, ("Adam",))


def main(config: Config) -> None:
    """Compare, write."""
    torch.set_num_threads(config.threads)
    rows = list(run(config))
    keep("celo", config, rows, by=("task", "method"))


if __name__ == "__main__":
    main(tyro.cli(Config))

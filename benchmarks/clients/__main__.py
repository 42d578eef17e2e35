"""Does the optimizer in the box work inside the tools that people use, and does it beat AdamW's default there?

    python -m benchmarks.clients --record            # pip install 'l2o[clients]' first
    python -m benchmarks.clients --only plain fsdp --steps 20 --seeds 1

Every client trains a small model twice in one and the same loop, the way that the library asks for: with
`l2o.LearnedOptimizer` and with `torch.optim.AdamW`, both as they are made without a thought.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.clients.client import Train, adamw, ours
from benchmarks.record import RESULTS, read, write
from l2o.training.evaluate import interval

CLIENTS = {
    "plain": "torch",
    "compiled": "torch",
    "amp": "torch",
    "ddp": "torch",
    "fsdp": "torch",
    "trainer": "transformers",
    "accelerated": "accelerate",
    "lit": "lightning",
    "timm_recipe": "timm",
    "skorch_net": "skorch",
    "sb3": "stable_baselines3",
    "torchrl_ppo": "torchrl",
    "higher_loop": "higher",
}
"""Every client's module here, and the library that it needs."""

REWARDED = ("sb3", "torchrl_ppo")
"""Clients that are judged by minus the return of episodes, not by a loss."""


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        only: clients; all if empty.
        steps: of the optimizer in a run; reinforcement learning takes as many as its episodes ask for.
        seeds: runs with each optimizer.
        record: keep the rows in benchmarks/results.
    """

    only: tuple[str, ...] = ()
    steps: int = 200
    seeds: int = 5
    record: bool = False


def client(name: str) -> Train:
    """A client by its name.

    Raises:
        ImportError: its library is missing.
    """
    if name not in CLIENTS:
        raise ValueError(f"a client must be one of {', '.join(CLIENTS)}; got {name!r}.")
    quiet()
    import_module("benchmarks.clients.torchvision_beside")  # before libraries that look for torchvision
    return import_module(f"benchmarks.clients.{name}").train


def quiet() -> None:
    """Nothing is looked up on the network, and libraries do not speak about other machines."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.filterwarnings("ignore", module="(?!l2o|benchmarks)")


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a client: the last tenth of its losses with both optimizers, means over seeds."""
    for name in config.only or CLIENTS:
        train, row = client(name), {"client": name, "measure": "minus return" if name in REWARDED else "loss"}
        for method, choice in (("ours", ours), ("adamw", adamw)):
            finals = [final(train(choice(config.steps), config.steps, seed)) for seed in range(config.seeds)]
            low, high = interval(torch.tensor(finals))
            row |= {method: sum(finals) / len(finals), f"{method}_low": low, f"{method}_high": high}
        row["below"] = row["ours"] < row["adamw"]
        told = (f"{m} {row[m]:.4g} [{row[m + '_low']:.4g}, {row[m + '_high']:.4g}]" for m in ("ours", "adamw"))
        print(f"{name}: {', '.join(told)}")
        yield row


def final(losses: list[float]) -> float:
    """Mean of the last tenth."""
    last = losses[-max(1, len(losses) // 10) :]
    return float(sum(last) / len(last))


def main(config: Config) -> None:
    """Run all, count, and keep the rows where they are wanted."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as elsewhere:
        folder = RESULTS if config.record else Path(elsewhere)
        for row in run(config):  # each is kept as it comes, beside those of other clients
            path = write("clients", config, [row], folder, by=("client",))
        rows = read("clients", folder)
    print(f"below AdamW's default on {sum(row['below'] for row in rows)} of {len(rows)}")
    if config.record:
        print(path)


if __name__ == "__main__":
    main(tyro.cli(Config))

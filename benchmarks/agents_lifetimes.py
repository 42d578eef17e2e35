"""How many whole PPO trainings does one CPU second hold?

    python -m benchmarks.agents_lifetimes

A lifetime is 10,240 steps of CartPole with random physics and 80 updates of a policy and a critic. Seconds are those of
the process on one thread, so other work on the machine hardly counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import tyro

import l2o
from benchmarks.record import RESULTS, readable, write
from l2o.agents import lifetime
from l2o.agents.environments import CartPole
from l2o.agents.losses import Hyperparameters
from l2o.agents.policy import ActorCritic
from l2o.agents.ppo import PPO
from l2o.types import seeded


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        num_lifetimes: trained at once.
        rules: update rules by name.
        lr: factor on a rule's steps, for those by hand: Adam's learning rate.
        hidden: units of the one hidden layer.
        shared: actor and critic share it.
        num_iterations, num_envs, num_steps, num_epochs: see `l2o.agents.lifetime`.
        record: keep the rows in benchmarks/results.
    """

    num_lifetimes: tuple[int, ...] = (1, 16, 256)
    rules: tuple[str, ...] = ("adam", "open")
    lr: float = 8e-3
    hidden: int = 32
    shared: bool = False
    num_iterations: int = 20
    num_envs: int = 16
    num_steps: int = 32
    num_epochs: int = 4
    record: bool = False


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a rule and number of lifetimes."""
    torch.set_num_threads(1)
    environment = CartPole(spread=0.4)
    policy = ActorCritic.of(environment, hidden=(config.hidden,), shared=config.shared)
    algorithm = PPO(config.num_envs, config.num_steps, config.num_epochs)
    hyper = Hyperparameters(discount=0.98, value=0.005)
    for name in config.rules:
        rule = l2o.load(name, lr=config.lr) if name == "adam" else l2o.load(name)
        for num in config.num_lifetimes:
            began = time.process_time()
            curves = lifetime.run(
                environment,
                policy,
                rule,
                hyper,
                num,
                config.num_iterations,
                generator=seeded(0),
                algorithm=algorithm,
            )
            seconds = time.process_time() - began
            row = {"rule": name, "lifetimes": num, "cpu_seconds": seconds, "per_cpu_second": num / seconds}
            row["steps_per_cpu_second"] = num * config.num_iterations * algorithm.num_samples / seconds
            row["area"] = float(curves.area.mean())
            print(f"{name:8} {num:5} at once: {readable(num / seconds)} lifetimes a CPU second", flush=True)
            yield row


def main(config: Config) -> None:
    """Time all, and write the rows where they are wanted."""
    rows = list(run(config))
    if config.record:
        print(write("agents_lifetimes", config, rows, RESULTS))


if __name__ == "__main__":
    main(tyro.cli(Config))

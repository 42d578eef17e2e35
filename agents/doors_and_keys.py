"""Skills of one's own: an agent learns to fetch, open and reach in grid worlds, and improves how it learns meanwhile.

    python -m agents.doors_and_keys --run runs/doors_and_keys

A suite of lives is three dicts of `Kind`, an environment and how one learns in it: to practise and learn from, for the
gate, and for the report.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

from l2o.agents.commands import ReportConfig, improve, show_report
from l2o.agents.config import AgentConfig
from l2o.agents.environments import GridWorld
from l2o.agents.kind import Kind
from l2o.agents.loop import Agent
from l2o.agents.losses import Hyperparameters
from l2o.agents.ppo import PPO
from l2o.agents.suites import LifeSuite


@dataclass(frozen=True)
class Config:
    """One life.

    Arguments:
        run: folder of the agent.
        rounds: of practice and improvement.
        seed: of everything.
    """

    run: Path = Path("runs/doors_and_keys")
    rounds: int = 12
    seed: int = 0


def doors_and_keys() -> LifeSuite:
    """Grid worlds of two and four rooms; held out: longer episodes for the gate, more rooms for the report."""
    learning = Hyperparameters(discount=0.97, entropy=0.02)
    two = Kind(GridWorld(2, 2, 5, 40), (32,), learning, PPO(num_envs=16, num_steps=20), 15)
    four = replace(two, environment=GridWorld(4, 2, 5, 60))
    return LifeSuite(
        {"two rooms": two, "four rooms": four},
        {
            "two rooms": replace(two, environment=GridWorld(2, 2, 5, 50)),
            "four rooms": replace(four, environment=GridWorld(4, 2, 5, 75)),
        },
        {"six rooms": replace(two, environment=GridWorld(6, 2, 5, 80))},
    )


def main(config: Config) -> None:
    """Live, and tell."""
    torch.set_num_threads(1)
    settings = AgentConfig(rounds=config.rounds, tune=2, max_pairs=128, report_every=4, seed=config.seed, threads=1)
    improve(Agent(settings, config.run, doors_and_keys()))
    show_report(ReportConfig(config.run))


if __name__ == "__main__":
    main(tyro.cli(Config))

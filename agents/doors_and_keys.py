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
from l2o.agents.environments import GridWorld
from l2o.agents.lifetime import PPO
from l2o.agents.lifetime_es import Kind
from l2o.agents.loop import Agent, AgentConfig
from l2o.agents.losses import Hyperparameters
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
    """Grid worlds of one and two rooms; held out: more rooms."""
    learning = Hyperparameters(discount=0.97, entropy=0.02)
    room = Kind(GridWorld(1, 1, 3, 20), (32,), learning, PPO(num_envs=16, num_steps=20), 15)
    two = replace(room, environment=GridWorld(1, 2, 3, 30))
    return LifeSuite(
        {"one room": room, "two rooms": two},
        {"two rooms": replace(two, hidden=(48,))},
        {"four rooms": replace(two, environment=GridWorld(2, 2, 3, 40))},
    )


def main(config: Config) -> None:
    """Live, and tell."""
    torch.set_num_threads(1)
    settings = AgentConfig(rounds=config.rounds, report_every=4, seed=config.seed, threads=1)
    improve(Agent(settings, config.run, doors_and_keys()))
    show_report(ReportConfig(config.run))


if __name__ == "__main__":
    main(tyro.cli(Config))

"""An agent of short lives improves itself: it practises cart poles and point masses, plans, and retrains how it learns.

    python -m agents.short_lives --run runs/short_lives
    python -m agents.short_lives --run runs/short_lives      # after a crash: goes on
    tensorboard --logdir runs

Ends with tables of all trials, and pictures of lives, lineage and skills in the folder's `report`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from l2o.agents.commands import ReportConfig, improve, show_report
from l2o.agents.config import AgentConfig
from l2o.agents.loop import Agent


@dataclass(frozen=True)
class Config:
    """One life.

    Arguments:
        run: folder of the agent.
        rounds: of practice and improvement.
        seed: of everything.
        workers: islands that meta-train the optimizer side by side; Ray's, if it is installed.
    """

    run: Path = Path("runs/short_lives")
    rounds: int = 20
    seed: int = 0
    workers: int = 1


def main(config: Config) -> None:
    """Live, and tell."""
    torch.set_num_threads(1)
    settings = AgentConfig(
        lives="short",
        rounds=config.rounds,
        recurse=1,
        max_pairs=192,
        report_every=5,
        seed=config.seed,
        workers=config.workers,
        threads=1,
    )
    improve(Agent(settings, config.run))
    show_report(ReportConfig(config.run))


if __name__ == "__main__":
    main(tyro.cli(Config))

"""What `l2o agent` does: train | improve | run | report."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from rich.console import Console

from l2o.agents.meta_train import LivesConfig, train
from l2o.training.commands import run_settings
from l2o.training.run import RunDirectory

COMMANDS = {
    "train": "meta-train an update rule on whole lives of agents, by PPO",
}


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    if not arguments or arguments[0] in ("-h", "--help"):
        told = "\n".join(f"  {name:<9}{text}" for name, text in COMMANDS.items())
        print(f"usage: l2o agent COMMAND [options]\n\n{told}\n\nl2o agent COMMAND --help shows a command's options.")
        return 0
    command, rest = arguments[0], list(arguments[1:])
    if command == "train":
        return _train(rest)
    raise ValueError(f"the command must be one of {', '.join(COMMANDS)}; got {command!r}.")


def _train(arguments: list[str]) -> int:
    about = "Meta-train an update rule on whole lives of agents."
    config, folder = run_settings("agent train", LivesConfig, about, arguments)
    scores = train(config, folder)
    Console().print(f"held out: {100 * (1 - scores['score']):.1f}% of the possible return, averaged over lives")
    Console().print(f"saved {RunDirectory(folder).weights}; use it: l2o.LearnedOptimizer(params, rule='{folder}')")
    return 0

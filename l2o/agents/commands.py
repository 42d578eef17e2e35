"""What `l2o agent` does: train | improve | run | report."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.live import Live
from rich.table import Table

from l2o.agents import view
from l2o.agents.config import AgentConfig
from l2o.agents.lineage import Lineage
from l2o.agents.living import policy_scores
from l2o.agents.loop import Agent, Round
from l2o.agents.meta_train import LivesConfig, train
from l2o.agents.practice import exercises_of
from l2o.agents.skills.library import SkillLibrary
from l2o.agents.suites import lives
from l2o.training.commands import run_settings
from l2o.training.config import read_config
from l2o.training.evaluate import interval
from l2o.training.run import RunDirectory
from l2o.types import seeded

COMMANDS = {
    "train": "meta-train an update rule on whole lives of agents, by PPO",
    "improve": "let an agent practise and improve itself, behind the gate",
    "run": "let an agent act in its skills, as it is",
    "report": "how an agent became what it is: tables, pictures of its lives, lineage and skills",
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
    if command == "improve":
        return _improve(rest)
    if command == "run":
        return _run(tyro.cli(RunConfig, prog="l2o agent run", args=rest))
    if command == "report":
        return show_report(tyro.cli(ReportConfig, prog="l2o agent report", args=rest))
    raise ValueError(f"the command must be one of {', '.join(COMMANDS)}; got {command!r}.")


def _train(arguments: list[str]) -> int:
    about = "Meta-train an update rule on whole lives of agents."
    config, folder = run_settings("agent train", LivesConfig, about, arguments)
    scores = train(config, folder)
    Console().print(f"held out: {100 * (1 - scores['score']):.1f}% of the possible return, averaged over lives")
    Console().print(f"saved {RunDirectory(folder).weights}; use it: l2o.LearnedOptimizer(params, rule='{folder}')")
    return 0


def _improve(arguments: list[str]) -> int:
    config, folder = run_settings("agent improve", AgentConfig, "Let an agent improve itself.", arguments)
    improve(Agent(config, folder))
    return show_report(ReportConfig(folder))


def improve(agent: Agent) -> None:
    """Let an agent live its rounds, with a live view where somebody sees it."""
    console, shown = Console(), view.View(agent.config.rounds)
    if not console.is_terminal:
        agent.run(lambda _, done: console.print(_line(done), highlight=False))
        return
    with Live(console=console, auto_refresh=False) as live:
        agent.run(lambda agent, done: live.update(shown.add(agent, done), refresh=True))


def _line(done: Round) -> str:
    trials = ", ".join(f"{part} {reason} ({gain:+.3f})" for part, reason, gain in done.trials)
    return f"round {done.number}: {done.skill} {done.share:.3f}; {trials}"


@dataclass(frozen=True)
class RunConfig:
    """Let an agent act in its skills, as it is.

    Arguments:
        run: its folder.
        episodes: of each skill.
        seed: of their chances.
    """

    run: Path
    episodes: int = 100
    seed: int = 0


def _run(config: RunConfig) -> int:
    settings = read_config(config.run / "config.yaml", AgentConfig)
    if config.episodes < 1:
        raise ValueError(f"acting needs an episode; got episodes={config.episodes}.")
    spec = Lineage(config.run).spec()
    table = Table("skill", "version", "share of the possible return", "95% interval")
    for exercise in exercises_of(lives(settings.lives).train, settings.seed):
        scores = policy_scores(exercise, spec, seeded(config.seed), config.episodes)
        low, high = interval(scores)
        version = str(spec.versions[exercise.part])
        table.add_row(exercise.name, version, f"{float(scores.mean()):.3f}", f"{low:.3f} to {high:.3f}")
    Console().print(table)
    return 0


@dataclass(frozen=True)
class ReportConfig:
    """Show how an agent became what it is.

    Arguments:
        run: its folder; pictures go to `report` in it.
    """

    run: Path


def show_report(config: ReportConfig) -> int:
    """Tables in the terminal, pictures in the folder."""
    console, rounds, lineage = Console(), view.read_rounds(config.run), Lineage(config.run)
    console.print(view.counts_table(lineage), view.lineage_table(lineage))
    try:
        for name, figure in view.pictures(rounds, lineage, SkillLibrary(config.run / "skills.db")).items():
            path = config.run / "report" / f"{name}.png"
            path.parent.mkdir(exist_ok=True)
            figure.savefig(path, dpi=150)
            console.print(f"picture: {path}")
    except ImportError as error:
        console.print(str(error), markup=False)
    return 0

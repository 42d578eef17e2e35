"""What the commands do: meta-train, population, learn, judge, icl, evaluate, info."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import tyro
from rich.console import Console
from rich.table import Table

from l2o.load import SUFFIX, is_untrained, load, names, recipe_file
from l2o.rules.base import UpdateRule
from l2o.tasks.data.text_collections import COLLECTIONS
from l2o.training import icl_command, learn_command, report
from l2o.training.baselines import BASELINES, RATES, baselines
from l2o.training.config import MetaTrainConfig, read_config
from l2o.training.episode_suites import EPISODES
from l2o.training.evaluate import Contestant, compare
from l2o.training.icl import IclConfig
from l2o.training.learn import LearnConfig
from l2o.training.meta_train_command import train
from l2o.training.population import PopulationConfig, train_population
from l2o.training.recipes import RECIPES
from l2o.training.run import RunDirectory
from l2o.training.suites import SUITES, load_suite
from l2o.types import bring

C = TypeVar("C")


def run(command: str, arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status."""
    if not {"", os.getcwd()} & set(sys.path):  # as `python -m` does: `module:object` may stand in the present folder
        sys.path.insert(0, os.getcwd())
    if command == "meta-train":
        return _meta_train(list(arguments))
    if command == "population":
        return _population(list(arguments))
    if command == "learn":
        return _learn(list(arguments))
    if command == "judge":
        return _judge(tyro.cli(learn_command.JudgeConfig, prog="l2o judge", args=arguments))
    if command == "icl":
        return _icl(list(arguments))
    if command == "evaluate":
        return _evaluate(tyro.cli(EvaluateConfig, prog="l2o evaluate", args=arguments))
    return _info(tyro.cli(InfoConfig, prog="l2o info", args=arguments))


@dataclass(frozen=True)
class RunOptions:
    """Where a run lives.

    Arguments:
        run: folder of the run: config, weights, checkpoints, dashboard.
    """

    run: Path


def run_settings(command: str, kind: type[C], about: str, arguments: list[str]) -> tuple[C, Path]:
    """Configuration and folder of a new run, or of one that goes on; torch's threads are set."""
    resume = take(arguments, "--resume")
    if resume is not None:
        if arguments:
            raise ValueError(f"a run resumes with its own settings; besides --resume got {' '.join(arguments)}.")
        config, folder = read_config(Path(resume) / "config.yaml", kind), Path(resume)
    else:
        given, recipe = take(arguments, "--config"), take(arguments, "--recipe")
        if given is not None and recipe is not None:
            raise ValueError(f"defaults come from --config or from --recipe; got both, {given} and {recipe}.")
        path = recipe_file(recipe) if recipe is not None else given
        default = read_config(path, kind) if path is not None else kind()
        config, options = tyro.cli(
            tuple[Annotated[kind, tyro.conf.arg(name="")], Annotated[RunOptions, tyro.conf.arg(name="")]],
            prog=f"l2o {command}",
            description=f"{about} Also: --config FILE.yaml for defaults, or --recipe NAME for those that come "
            "with the package; --resume RUN to go on.",
            default=(default, RunOptions(Path("runs") / command)),
            args=arguments,
        )
        folder = options.run
        if RunDirectory(folder).checkpoints():
            raise ValueError(
                f"a new run needs a folder without checkpoints, so that nothing is overwritten; {folder} has some "
                f"(go on with --resume {folder}, or choose another --run)."
            )
    if config.threads:  # type: ignore[attr-defined]
        torch.set_num_threads(config.threads)  # type: ignore[attr-defined]
    return config, folder


def _meta_train(arguments: list[str]) -> int:
    config, folder = run_settings("meta-train", MetaTrainConfig, "Meta-train an update rule.", arguments)
    train(config, folder)
    _tell_use(folder)
    return 0


def _population(arguments: list[str]) -> int:
    about = "Meta-train several update rules at once; the worst take over from the best."
    config, folder = run_settings("population", PopulationConfig, about, arguments)
    best = train_population(config, folder, Console().print)
    Console().print(f"best: member {best['member']} after round {best['round']}, score {best['score']:.4g}")
    _tell_use(folder)
    return 0


def _tell_use(folder: Path) -> None:
    Console().print(f"saved {RunDirectory(folder).weights}; use it: l2o.LearnedOptimizer(params, rule='{folder}')")


def _learn(arguments: list[str]) -> int:
    config, folder = run_settings("learn", LearnConfig, "Train a learner on episodes.", arguments)
    learn_command.show(learn_command.learn(config, folder))
    return 0


def _icl(arguments: list[str]) -> int:
    config, folder = run_settings("icl", IclConfig, "Adapt a language model in context.", arguments)
    icl_command.show(icl_command.icl(config, folder))
    return 0


def _judge(config: learn_command.JudgeConfig) -> int:
    if config.threads:
        torch.set_num_threads(config.threads)
    learn_command.show(learn_command.judge_saved(config))
    return 0


@dataclass(frozen=True)
class EvaluateConfig:
    """Train held-out tasks with a rule and with baselines at their best swept rate.

    Arguments:
        rule: a name, a saved file or a run folder; several to compare them.
        tasks: a named suite (see `l2o info`), or `module:object` for a family of your own.
        steps: inner steps; 0 takes the suite's.
        num_seeds: runs of each task, from different initial parameters and batches.
        seed: of initial parameters and batches.
        out: folder for rows.jsonl and curves.png.
        sweep: also sweep the learned rules' rate.
        device: where to train: cpu, cuda, ...
    """

    rule: tuple[str, ...]
    tasks: str = "digits-mlp"
    steps: int = 0
    num_seeds: int = 5
    seed: int = 0
    out: Path = Path("runs/evaluate")
    sweep: bool = False
    device: str = "cpu"


def _evaluate(config: EvaluateConfig) -> int:
    suite = load_suite(config.tasks)
    for name in filter(is_untrained, config.rule):
        Console(stderr=True).print(f"l2o evaluate: {name} is a fresh rule that nobody has trained.")
    rules = [load(name) for name in config.rule]
    for name, rule in zip(config.rule, rules, strict=True):
        if not isinstance(rule, UpdateRule):
            raise ValueError(f"evaluate compares update rules; {name} is a learner (l2o judge).")
    contestants = {
        label: Contestant(rule, RATES if config.sweep else (1.0,))
        for label, rule in zip(labels(config.rule), rules, strict=True)
    }
    contestants |= baselines()
    for contestant in contestants.values():
        bring(contestant.rule, config.device)
    num_steps = config.steps or suite.num_steps
    results = compare(contestants, suite.test, num_steps, config.num_seeds, config.seed)
    config.out.mkdir(parents=True, exist_ok=True)
    with open(config.out / "rows.jsonl", "w") as file:
        for row in report.rows(results, ("Adam",)):
            file.write(json.dumps(row, allow_nan=False) + "\n")
    Console().print(report.table(results, f"{config.tasks}, {num_steps} steps, {config.num_seeds} seeds", "Adam"))
    Console().print(f"rows: {config.out / 'rows.jsonl'}")
    try:
        report.figure(results).savefig(config.out / "curves.png", dpi=150)
        Console().print(f"figure: {config.out / 'curves.png'}")
    except ImportError as error:
        Console().print(str(error), markup=False)
    return 0


def labels(rules: Sequence[str]) -> list[str]:
    """Short names for the table; the whole name where short ones would be the same, or a baseline's.

    Raises:
        ValueError: the same rule twice.
    """
    if len(set(rules)) < len(rules):
        raise ValueError(f"rules to compare must be different ones; got {', '.join(rules)}.")
    short = [Path(rule).name.removesuffix(SUFFIX) for rule in rules]
    taken = [*short, *BASELINES]
    return [label if taken.count(label) == 1 else f"rule {rule}" for label, rule in zip(short, rules, strict=True)]


@dataclass(frozen=True)
class InfoConfig:
    """Show what a saved rule or learner is; without one, what there is: rules, task suites, learners, episodes.

    Arguments:
        rule: a name, a saved file or a run folder.
    """

    rule: Annotated[str, tyro.conf.Positional] = ""


def _info(config: InfoConfig) -> int:
    console = Console()
    if not config.rule:
        console.print("rules: " + ", ".join(names()))
        shown = Table("suite", "tasks", title="task suites", title_justify="left")
        for name, make in SUITES.items():
            shown.add_row(name, (make.__doc__ or "").strip().splitlines()[0])
        console.print(shown)
        console.print("learners: " + ", ".join(RECIPES))
        console.print("text tasks, for l2o icl: " + ", ".join(COLLECTIONS))
        shown = Table("data", "episodes", title="sources of episodes", title_justify="left")
        for name, source in EPISODES.items():
            shown.add_row(name, (source.__doc__ or "").strip().splitlines()[0])
        console.print(shown)
        return 0
    rule = load(config.rule)
    shown = Table("theta", "shape", "size", title=f"{config.rule}: {type(rule).__name__}", title_justify="left")
    for name, parameter in rule.named_parameters():
        shown.add_row(name, str(tuple(parameter.shape)), str(parameter.numel()))
    shown.add_row("all", "", str(sum(p.numel() for p in rule.parameters())), style="bold")
    console.print(shown)
    console.print(f"arguments: {json.dumps(getattr(rule, 'config', {}), default=lambda m: type(m).__name__)}")
    if not isinstance(rule, UpdateRule):
        return 0
    state = rule.init({"w": torch.zeros(64, 64)})
    floats = sum(t.numel() for slot in state.slots.values() for t in slot.values()) / 64**2
    console.print(f"state: {floats:.2f} numbers per parameter (of a 64 x 64 matrix); needs the loss: {rule.needs_loss}")
    return 0


def take(arguments: list[str], flag: str) -> str | None:
    """Remove `flag VALUE` from the arguments and return the value."""
    for i, argument in enumerate(arguments):
        if argument.startswith(flag + "="):
            del arguments[i]
            return argument.split("=", 1)[1]
        if argument == flag:
            if i + 1 >= len(arguments):
                raise ValueError(f"{flag} needs a value; got none.")
            value = arguments[i + 1]
            del arguments[i : i + 2]
            return value
    return None

"""Does meta-training make a small language model better at learning from demonstrations? (Min et al., 2022)

    python -m benchmarks.meta_icl --record

A GPT-2 of 330,000 weights, fresh, is trained on 47 intents of BANKING77, once to name the intent of a text alone
(multi-task, zero-shot), once behind demonstrations of each option (MetaICL); as many pairs are read in a step of both.
Both are judged on 20 intents that were never trained on, with the same draws of four intents, demonstrations and texts:
the first without demonstrations (zero-shot) and with them (plain in-context learning). Runs that were stopped go on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.record import commit, keep, line, read
from l2o.files import write_atomically
from l2o.learners.adaptation import Adaptation
from l2o.load import load
from l2o.training.evaluate import half_interval
from l2o.training.icl import IclConfig
from l2o.training.icl_command import icl, judge_task
from l2o.training.outer import torch_class

HELD_OUT = ("banking77-test", "banking77-validation")


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        methods: direct, channel.
        seeds: of weights and training episodes; the draws that all are judged by are the same.
        steps: outer steps.
        optimizer: of the weights: a class of torch.optim, which gets a warm-up and a cosine, or an update rule, which
            needs neither.
        lr: its rate; None for the usual one.
        way: options of an episode.
        shot: demonstrations of each.
        judgements: draws of options, demonstrations and texts.
        items: texts of each.
        threads: CPU threads.
        out: folder of the runs and rows.
        record: keep the rows in benchmarks/results.
    """

    methods: tuple[str, ...] = ("channel", "direct")
    seeds: tuple[int, ...] = (0,)
    steps: int = 1500
    optimizer: str = "default"
    lr: float | None = None
    way: int = 4
    shot: int = 2
    judgements: int = 10
    items: int = 40
    threads: int = 1
    out: Path = Path("runs/meta_icl")
    record: bool = False


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a method, seed and way to train and judge."""
    for method in config.methods:
        for seed in config.seeds:
            zero, with_demonstrations = (_trained(config, method, seed, shot) for shot in (0, config.shot))
            found = {
                "zero-shot": (zero, 0),
                "in-context": (zero, config.shot),
                "MetaICL, no demonstrations": (with_demonstrations, 0),
                "MetaICL": (with_demonstrations, config.shot),
            }
            accuracies = {name: _judged(config, *of) for name, of in found.items()}
            for name, (settings, _) in found.items():
                told = accuracies[name]
                gain = [a - b for a, b in zip(accuracies["MetaICL"]["accuracies"], told["accuracies"], strict=True)]
                report = json.loads((_folder(config, settings) / "test.json").read_text())
                yield {
                    "method": method,
                    "seed": seed,
                    "how": name,
                    **told,
                    "metaicl_gains": fmean(gain),
                    "half_gain": half_interval(torch.tensor(gain)),
                    "cpu_seconds": report["cpu_seconds"],
                    "computed_at": (_folder(config, settings) / "commit").read_text(),
                }


def _trained(config: Config, method: str, seed: int, shot: int) -> IclConfig:
    """The settings of a run, which is made, or brought to its end, if it is not there."""
    settings = IclConfig(
        data="banking77",
        held_out=HELD_OUT,
        method=method,  # type: ignore[arg-type]
        way=config.way,
        shot=shot,
        # as many pairs in a step, whatever the demonstrations
        num_episodes=16 if shot else 16 * (config.way * config.shot + 1),
        in_turn=shot > 0,
        before="\n",
        optimizer=config.optimizer,
        lr=config.lr,
        warmup=20 if torch_class(config.optimizer) else 0,
        steps=config.steps,
        seed=seed,
        threads=config.threads,
        evaluate_every=100,
        checkpoint_every=50,
        validation_episodes=60,
        judgements=1,
        items=20,
    )
    folder = _folder(config, settings)
    if not (folder / "commit").exists():
        icl(settings, folder, show_progress=False)
        write_atomically(folder / "commit", commit().encode())
    return settings


def _folder(config: Config, settings: IclConfig) -> Path:
    return config.out / f"{settings.method}_{settings.shot}_{settings.optimizer}_{settings.steps}_{settings.seed}"


def _judged(config: Config, settings: IclConfig, shot: int) -> dict[str, Any]:
    """Accuracies on the intents that were held out, with so many demonstrations of each."""
    folder = _folder(config, settings)
    adaptation = load(folder / "best.safetensors")
    assert isinstance(adaptation, Adaptation)
    train, held_out = settings.tasks()
    _, tokens = settings.language_model(train, folder)
    asked = dataclasses.replace(settings, shot=shot, judgements=config.judgements, items=config.items)
    return judge_task(adaptation, asked, tokens, held_out[0]).plain()


def table() -> str:
    """For the README."""
    rows = read("meta_icl")
    lines = [line(["method", "how", "accuracy, mean", "worst draw", "MetaICL is better by"]), line(["---"] * 5)]
    for row in rows:
        better = "" if row["how"] == "MetaICL" else f"{100 * row['metaicl_gains']:.1f} ± {100 * row['half_gain']:.1f}"
        mean = f"{100 * row['mean']:.1f}% ± {100 * row['half_interval']:.1f}"
        lines.append(line([row["method"], row["how"], mean, f"{100 * row['worst']:.1f}%", better]))
    first = rows[0]
    lines += [
        "",
        f"{first['config']['way']} of 20 intents never trained on, {first['config']['shot']} demonstrations of each, "
        f"{first['config']['judgements']} draws of {first['items']} texts; 95% intervals over draws. "
        f"{first['machine']}, commit {first['commit']}.",
    ]
    return "\n".join(lines)


def main(config: Config) -> None:
    """Train, judge, write, show."""
    torch.set_num_threads(config.threads)
    rows = list(run(config))
    keep("meta_icl", config, rows, by=("method", "seed", "how"))
    shown = Table("method", "seed", "how", "accuracy, mean ± 95%", "worst", "MetaICL is better by", "CPU s")
    for row in rows:
        mean = f"{100 * row['mean']:.1f}% ± {100 * row['half_interval']:.1f}"
        better = f"{100 * row['metaicl_gains']:.1f} ± {100 * row['half_gain']:.1f}"
        facts = (row["method"], str(row["seed"]), row["how"], mean, f"{100 * row['worst']:.1f}%", better)
        shown.add_row(*facts, f"{row['cpu_seconds']:.0f}")
    Console(width=140).print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

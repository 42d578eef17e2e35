r"""Does meta-training make a small language model better at learning from demonstrations? (Min et al., 2022)

    python -m benchmarks.meta_icl --record
    python -m benchmarks.meta_icl --model tiny-gpt --steps 1500 --episodes 16 --optimizer default --lr 1 --symbols 0 \
        --no-bfloat16 --validations 15 --record

A language model, SmolLM2-135M-Instruct or a fresh GPT-2 of 330,000 weights, is trained on 47 intents of BANKING77, once
to name the intent of a text alone (multi-task, zero-shot), once behind demonstrations of each option (MetaICL); as many
pairs are read in a step of both. The best weights are chosen by 10 other intents. Both are judged on 20 intents that
were never trained on, with the same draws of four intents, demonstrations and texts, beside the pretrained model as it
is (plain in-context learning; of the fresh one, what was trained without demonstrations takes its place). All see the
options' own names or, with --renamed, words that mean nothing, so that only the demonstrations say what is asked. Runs
that were stopped go on, and nothing is judged twice.
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

from benchmarks.record import commit, keep
from l2o.files import write_atomically
from l2o.learners.adaptation import Adaptation
from l2o.load import load
from l2o.training.evaluate import half_interval
from l2o.training.icl import IclConfig, load_tasks
from l2o.training.icl_command import icl, judge_task
from l2o.training.outer import torch_class

TEST, VALIDATION = "banking77-test", "banking77-validation"

WAYS = ("MetaICL", "zero-shot", "in-context", "MetaICL, no demonstrations", "zero-shot, with demonstrations")
"""To train and judge; MetaICL is what the others are compared with."""


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        model: as of `l2o icl`.
        methods: direct, channel.
        seeds: of weights and training episodes; the draws that all are judged by are the same.
        steps: outer steps.
        episodes: prompts of a step.
        optimizer: of the weights: a class of torch.optim, which gets a warm-up and a cosine, or an update rule, which
            needs neither.
        lr: its rate; None for the usual one.
        symbols: share of MetaICL's training prompts whose options are renamed to words that mean nothing, so that the
            demonstrations must be read; without demonstrations names are always the real ones.
        bfloat16: matrix products of training in bfloat16; judgements never are.
        way: options of an episode.
        shot: demonstrations of each.
        first: number of the first draw of options, demonstrations and texts; those of other numbers are others.
        judgements: draws.
        items: texts of each.
        validations: choices of the best weights in a run.
        ways: which, MetaICL among them.
        judged_on: tasks; to choose settings, banking77-validation.
        renamed: judge with options that are renamed so.
        threads: CPU threads.
        out: folder of the runs and rows.
        record: keep the rows in benchmarks/results.
    """

    model: str = "smollm2"
    methods: tuple[str, ...] = ("channel",)
    seeds: tuple[int, ...] = (1,)
    steps: int = 30
    episodes: int = 4
    optimizer: str = "AdamW"
    lr: float | None = 1e-4
    symbols: float = 0.5
    bfloat16: bool = True
    way: int = 4
    shot: int = 2
    first: int = 16
    judgements: int = 20
    items: int = 24
    validations: int = 2
    ways: tuple[str, ...] = WAYS
    judged_on: tuple[str, ...] = (TEST,)
    renamed: bool = False
    threads: int = 1
    out: Path = Path("runs/meta_icl")
    record: bool = False


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a method, seed, task and way to train and judge."""
    for method in config.methods:
        for seed in config.seeds:
            zero, with_demonstrations = (_trained(config, method, seed, shot) for shot in (0, config.shot))
            pretrained = dataclasses.replace(with_demonstrations, steps=0)
            found = {
                "MetaICL": (with_demonstrations, config.shot),
                "zero-shot": (zero, 0),
                "in-context": (zero if config.model == "tiny-gpt" else pretrained, config.shot),
                "MetaICL, no demonstrations": (with_demonstrations, 0),
                "zero-shot, with demonstrations": (zero, config.shot),
            }
            if config.model == "tiny-gpt":
                del found["zero-shot, with demonstrations"]  # the same again
            asked = {name: of for name, of in found.items() if name in config.ways}
            for task in config.judged_on:
                yield from _rows(config, asked, method, seed, task)


def _rows(
    config: Config, found: dict[str, tuple[IclConfig, int]], method: str, seed: int, task: str
) -> Iterator[dict[str, Any]]:
    """One row a way to train and judge, with what MetaICL gains over it on the same draws."""
    judged = {name: _judged(config, *of, task) for name, of in found.items()}
    for name, (settings, _) in found.items():
        told = judged[name]
        gain = [a - b for a, b in zip(judged["MetaICL"]["accuracies"], told["accuracies"], strict=True)]
        about = {"model": Path(config.model).name, "task": task, "method": method, "seed": seed, "how": name}
        about |= {"first": config.first, "renamed": config.renamed}
        gains = {"metaicl_gains": fmean(gain), "half_gain": half_interval(torch.tensor(gain))}
        yield about | told | gains | _spent(config, settings)


def _trained(config: Config, method: str, seed: int, shot: int) -> IclConfig:
    """The settings of a run, which is made, or brought to its end, if it is not there."""
    settings = IclConfig(
        model=config.model,
        data="banking77",
        held_out=(TEST,),
        validation=(VALIDATION,),
        method=method,  # type: ignore[arg-type]
        way=config.way,
        shot=shot,
        # as many pairs in a step, whatever the demonstrations
        num_episodes=config.episodes if shot else config.episodes * (config.way * config.shot + 1),
        in_turn=shot > 0,
        symbols=config.symbols if shot else 0.0,
        before="\n",
        optimizer=config.optimizer,
        lr=config.lr,
        warmup=config.steps // 10 if torch_class(config.optimizer) else 0,
        steps=config.steps,
        seed=seed,
        threads=config.threads,
        evaluate_every=max(1, config.steps // config.validations),
        checkpoint_every=max(1, config.steps // config.validations),
        validation_episodes=20,
        judgements=1,
        items=1,
    )
    folder = _folder(config, settings)
    if not (folder / "commit").exists():
        # weights change between products, so none is kept in bfloat16
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16, cache_enabled=False):
            icl(settings, folder, show_progress=False)
        write_atomically(folder / "commit", commit().encode())
    return settings


def _spent(config: Config, settings: IclConfig) -> dict[str, Any]:
    """What training took, and at which commit."""
    if not settings.steps:
        return {"cpu_seconds": 0.0, "computed_at": commit()}
    folder = _folder(config, settings)
    report = json.loads((folder / "test.json").read_text())
    return {"cpu_seconds": report["cpu_seconds"], "computed_at": (folder / "commit").read_text()}


def _folder(config: Config, settings: IclConfig) -> Path:
    """Of a run: all that its weights depend on."""
    s = settings
    facts = (s.method, s.way, s.shot, s.num_episodes, s.symbols, s.optimizer, s.lr, s.steps, s.evaluate_every, s.seed)
    dtype = "bfloat16" if config.bfloat16 else "float32"
    return config.out / Path(config.model).name / "_".join(map(str, (*facts, dtype)))


def _judged(config: Config, settings: IclConfig, shot: int, task: str) -> dict[str, Any]:
    """Accuracies on a task that was not trained on, with so many demonstrations of each option; made once."""
    folder = _folder(config, settings)
    names = "_renamed" if config.renamed else ""
    path = folder / f"{task}{names}_{shot}_{config.first}_{config.judgements}_{config.items}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        model, tokens = settings.language_model(settings.tasks()[0], folder)
        adaptation = load(folder / "best.safetensors") if settings.steps else settings.adaptation(model, tokens)
        assert isinstance(adaptation, Adaptation)
        draws: dict[str, Any] = {"judgements": config.judgements, "items": config.items}
        asked = dataclasses.replace(settings, shot=shot, renamed=config.renamed, **draws)
        collection = "banking77" if task.startswith("banking77") else task
        found = judge_task(adaptation, asked, tokens, load_tasks(collection)[task], config.first)
        write_atomically(path, json.dumps(found.plain()).encode())
    return json.loads(path.read_text())


def main(config: Config) -> None:
    """Train, judge, write, show."""
    torch.set_num_threads(config.threads)
    rows = list(run(config))
    keep("meta_icl", config, rows, by=("model", "task", "method", "seed", "how", "first", "renamed"))
    shown = Table("method", "seed", "how", "accuracy, mean ± 95%", "worst", "MetaICL is better by", "CPU s")
    for row in rows:
        mean = f"{100 * row['mean']:.1f}% ± {100 * row['half_interval']:.1f}"
        better = f"{100 * row['metaicl_gains']:.1f} ± {100 * row['half_gain']:.1f}"
        facts = (row["method"], str(row["seed"]), row["how"], mean, f"{100 * row['worst']:.1f}%", better)
        shown.add_row(*facts, f"{row['cpu_seconds']:.0f}")
    Console(width=140).print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

"""How well does a pretrained language model adapt to a few examples of real sets, and in which way best?

    python -m benchmarks.icl_models --record
    python -m benchmarks.icl_models --model path/to/stories260K.bin --out runs/icl_stories

SmolLM2-135M-Instruct by default (for where it comes from see `smollm2` in l2o.learners.in_context.language_model):
without examples, with them in its prompt (direct, channel), and with them in a LoRA, tuned by Adam at the best of three
rates and by a learned rule. Rates are chosen on draws of their own, from the training pairs. Every cell (a set, a way,
a draw) is kept as it is made, and not made twice; all ways have the same draws of options, examples and texts. On one
core a whole run takes hours.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.record import commit, keep, markdown, read
from l2o.learners.adaptation import Adaptation
from l2o.learners.in_context.choice import choose_options
from l2o.learners.in_context.context_weights import LoRA
from l2o.learners.in_context.language_model import Pretrained, pretrained, smollm2
from l2o.learners.in_context.text import InContextLanguageModel
from l2o.load import load
from l2o.rules import Adam, UpdateRule
from l2o.tasks.data.text_tasks import TextTask
from l2o.tasks.text_episodes import Format
from l2o.training.icl import load_tasks
from l2o.training.icl_command import Judgements, drawn

SETS = {"sst2": "sst2", "trec": "trec", "banking77-test": "banking77"}
"""Tasks, and the collections that they are of."""

WAYS = ("zero-shot", "in-context", "in-context, channel", "LoRA, Adam", "LoRA, learned rule")
RATES = (1e-3, 3e-3, 1e-2)
"""Of Adam."""


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        model: smollm2, or as of `l2o icl`.
        sets: which.
        ways: which.
        way: most options of a draw.
        examples: in all; each option has as many.
        draws: of options, examples and texts.
        items: texts of a draw.
        steps: of the rules that tune a LoRA.
        rule: the learned one.
        before: what stands before a pair.
        threads: CPU threads.
        out: folder of the cells and rows.
        record: keep the rows in benchmarks/results.
    """

    model: str = "smollm2"
    sets: tuple[str, ...] = tuple(SETS)
    ways: tuple[str, ...] = WAYS
    way: int = 4
    examples: int = 16
    draws: int = 5
    items: int = 40
    steps: int = 10
    rule: str = "default"
    before: str = "\n\n"
    threads: int = 1
    out: Path = Path("runs/icl_models")
    record: bool = False


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a set and way, of the cells that there are."""
    made = Cells(config)
    for draw in range(config.draws):  # all sets and ways have as many cells, wherever it is stopped
        for name in config.sets:
            for way in config.ways:
                made.cell(name, way, draw)
    for name in config.sets:
        for way in config.ways:
            cells = [made.cell(name, way, draw) for draw in range(config.draws)]
            told = Judgements([c["accuracy"] for c in cells], [c["accuracy"] for c in cells], cells[0]["items"])
            plain = {key: value for key, value in told.plain().items() if key != "macro_f1"}
            facts = {"model": Path(config.model).name, "set": name, "how": way, "rate": cells[0]["rate"]}
            seconds = fmean(c["cpu_seconds"] for c in cells)
            yield {**facts, **plain, "cpu_seconds_a_draw": seconds, "computed_at": cells[0]["computed_at"]}


class Cells:
    """What has been measured, in a file of JSON lines; the rest is measured when asked for."""

    def __init__(self, config: Config) -> None:
        self.config, self.path = config, config.out / "cells.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.known = {(c["set"], c["how"], c["draw"], c["rate"]): c for c in map(json.loads, lines)}
        self._model: Pretrained | None = None

    @property
    def model(self) -> Pretrained:
        """The language model, frozen."""
        if self._model is None:
            path = smollm2() if self.config.model == "smollm2" else self.config.model
            self._model = pretrained(path)
            self._model.model.eval().requires_grad_(False)
        return self._model

    def cell(self, name: str, way: str, draw: int) -> dict[str, Any]:
        """The accuracy of one draw."""
        rate = self._rate(name) if way == "LoRA, Adam" else None
        return self._made(name, way, draw, rate)

    def _rate(self, name: str) -> float:
        """Adam's best on a draw of training pairs that no cell is judged by."""
        return max(RATES, key=lambda rate: self._made(name, "LoRA, Adam", -1, rate)["accuracy"])

    def _made(self, name: str, way: str, draw: int, rate: float | None) -> dict[str, Any]:
        if (name, way, draw, rate) not in self.known:
            begun = time.process_time()
            accuracy, items = self._measured(name, way, draw, rate)
            cell = {"set": name, "how": way, "draw": draw, "rate": rate, "accuracy": accuracy, "items": items}
            cell |= {"cpu_seconds": time.process_time() - begun, "computed_at": commit()}
            with open(self.path, "a") as file:
                file.write(json.dumps(cell) + "\n")
            self.known[name, way, draw, rate] = cell
        return self.known[name, way, draw, rate]

    def _measured(self, name: str, way: str, draw: int, rate: float | None) -> tuple[float, int]:
        c, task = self.config, load_tasks(SETS[name])[name]
        if draw < 0:
            task = dataclasses.replace(task, test=())
        num = min(c.way, len(task.options))
        options, examples, _, test = drawn(_short(task), num, max(1, c.examples // num), c.items, 10**6 + draw)
        model, tokens = self.model
        method = "channel" if way.endswith("channel") else "direct"
        shown = Format(tokens, method, c.before, longest=96)
        if way.startswith("LoRA"):
            rule: UpdateRule = Adam(rate) if rate is not None else load(c.rule)
            adaptation = Adaptation(LoRA(model, tokens.start), rule, c.steps, order="first")
        else:
            adaptation = Adaptation(InContextLanguageModel(model, tokens.start, 96, rows_at_once=16))
            examples = [] if way == "zero-shot" else examples
        texts = [pair.input for pair in test]
        said = choose_options(adaptation, shown, options, examples, texts).outputs
        return fmean(a == pair.output for a, pair in zip(said, test, strict=True)), len(test)


def _short(task: TextTask) -> TextTask:
    """Without texts of more than 300 characters, which few are."""
    train, test = (tuple(pair for pair in part if len(pair.input) <= 300) for part in (task.train, task.test))
    return dataclasses.replace(task, train=train, test=test)


def table() -> str:
    """For the README."""
    rows = read("icl_models")
    sets, ways = (list(dict.fromkeys(row[key] for row in rows)) for key in ("set", "how"))
    lines = []
    for way in ways:
        of = {row["set"]: row for row in rows if row["how"] == way}
        lines.append([way, *(_cell(of[name]) if name in of else "" for name in sets)])
    first = rows[0]
    caption = (
        f"{first['model']}, {first['config']['examples']} examples, at most {first['config']['way']} options; "
        f"{len(first['accuracies'])} draws of {first['items']} texts, 95% intervals over draws. "
        f"{first['machine']}, commit {first['commit']}."
    )
    return markdown(["how", *sets], lines, caption)


def _cell(row: dict[str, Any]) -> str:
    half = "" if row["half_interval"] is None else f" ± {100 * row['half_interval']:.1f}"
    return f"{100 * row['mean']:.1f}%{half}, worst {100 * row['worst']:.0f}%"


def main(config: Config) -> None:
    """Measure, write, show."""
    torch.set_num_threads(config.threads)
    rows = list(run(config))
    keep("icl_models", config, rows)
    shown = Table("set", "how", "accuracy, mean ± 95%", "worst draw", "CPU s a draw")
    for row in rows:
        half = "" if row["half_interval"] is None else f" ± {100 * row['half_interval']:.1f}"
        mean, worst = f"{100 * row['mean']:.1f}%{half}", f"{100 * row['worst']:.1f}%"
        shown.add_row(row["set"], row["how"], mean, worst, f"{row['cpu_seconds_a_draw']:.1f}")
    Console(width=120).print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

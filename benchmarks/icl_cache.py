"""How much faster are options scored where demonstrations are read once? (the same scores, side by side)

    python -m benchmarks.icl_cache --record

stories260K (`lm/stories260K.bin` below L2O_DATA), questions of TREC. CPU seconds of this process, the two in turns, so
that what else the machine does falls on both; median of the pairs' ratios.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro

from benchmarks.record import keep, markdown, read
from l2o.learners.in_context.language_model import pretrained
from l2o.learners.in_context.text import InContextLanguageModel
from l2o.tasks.data.fetch import find
from l2o.tasks.data.text_collections import sentences
from l2o.tasks.text_episodes import Format, encode
from l2o.training.icl_command import drawn


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        demonstrations: how many, even numbers: half of each option.
        texts: scored at once, with two options each.
        repeats: pairs of measurements.
        out: folder of the rows.
        record: keep the rows in benchmarks/results.
    """

    demonstrations: tuple[int, ...] = (2, 4, 8, 16)
    texts: int = 8
    repeats: int = 3
    out: Path = Path("runs/icl_cache")
    record: bool = False


@torch.no_grad()
def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a method and number of demonstrations."""
    path = find(("stories260K.bin", "lm/stories260K.bin"))
    if path is None:
        raise FileNotFoundError("stories260K.bin must be in a folder that L2O_DATA names.")
    model, tokens = pretrained(str(path))
    task = sentences("trec")
    for method in ("direct", "channel"):
        shown = Format(tokens, method, longest=32)
        for num in config.demonstrations:
            options, demonstrations, _, test = drawn(task, 2, num // 2, config.texts, 0)
            support, query = encode(shown, options, demonstrations, test)
            learners = [
                InContextLanguageModel(model, tokens.start, longest=32, cached=cached).eval()
                for cached in (True, False)
            ]
            scores = [learner.predict(learner.start(support), query.x) for learner in learners]  # warm-up
            seconds: list[list[float]] = [[], []]
            for _ in range(config.repeats):
                for learner, spent in zip(learners, seconds, strict=True):
                    begun = time.process_time()
                    learner.predict(learner.start(support), query.x)
                    spent.append(time.process_time() - begun)
            yield {
                "method": method,
                "demonstrations": num,
                "prompt_tokens": int((support.x[:, 0, 1] > 0).sum()),
                "times_faster": median(b / a for a, b in zip(*seconds, strict=True)),
                "largest_difference": float((scores[0] - scores[1]).abs().max()),
            }


def table() -> str:
    """For the docs."""
    rows = read("icl_cache")
    counts = list(dict.fromkeys(row["demonstrations"] for row in rows))
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        times = [row["times_faster"] for row in rows if row["method"] == method]
        lines.append([method, *(f"{value:.1f} times" for value in times)])
    worst = max(row["largest_difference"] for row in rows)
    first = rows[0]
    caption = (
        f"Faster than the same scores without the cache, for {first['config']['texts']} texts after one reading of the "
        f"demonstrations; scores differ by {worst:.0e} at most. {first['machine']}, commit {first['commit']}."
    )
    return markdown(["method", *(f"{num} demonstrations" for num in counts)], lines, caption)


def main(config: Config) -> None:
    """Measure, write, show."""
    torch.set_num_threads(1)
    rows = list(run(config))
    keep("icl_cache", config, rows)
    for row in rows:
        print(
            f"{row['method']:<8} {row['demonstrations']:>3} demonstrations ({row['prompt_tokens']} tokens): "
            f"{row['times_faster']:.1f} times faster, scores differ by {row['largest_difference']:.1e} at most"
        )


if __name__ == "__main__":
    main(tyro.cli(Config))

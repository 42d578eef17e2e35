"""How often does the gate let a change through that is none, or a hostile one, and how small a gain does it see?

    python -m benchmarks.agents_gate --record

A run is 200 proposals, one after the other, each judged by the gate that agents have. In a null run every proposal is
as good as what is there: differences have mean zero, in five shapes, one of which is that of lives of PPO with Adam in
different worlds. A run with any acceptance counts as a false one. Hostile runs are of proposals that crash, that tell
scores which are none, take their time, or are worse in the mean by a difference that hides it. Power: how often an
improvement of a size is accepted as first and as 20th trial. No trial may end by the clock, but for the proposals that
take their time: a tenth of a second each, where the gate's grace is a hundredth in place of ten seconds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import tyro
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Generator, Tensor

from benchmarks.record import RESULTS, commits, markdown, read, write
from l2o.agents.config import AgentConfig
from l2o.agents.gate import Gate, Score, Verdict
from l2o.agents.suites import lives
from l2o.load import load
from l2o.types import seeded

Draw = Callable[[Generator, int], Float[Tensor, " n"]]


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        num_runs: of each shape, and of each hostile kind.
        num_slow: of the one that takes its time.
        num_proposals: in a run.
        alpha, batch, max_pairs, pace: of the gate.
        num_lives: of PPO, from which differences of one shape are drawn.
        gains: improvements, in standard deviations of a difference, whose acceptance is measured.
        record: keep the rows in benchmarks/results.
    """

    num_runs: int = 100
    num_slow: int = 1
    num_proposals: int = 200
    alpha: float = AgentConfig.alpha
    batch: int = AgentConfig.batch
    max_pairs: int = AgentConfig.max_pairs
    pace: float = Gate.pace
    num_lives: int = 512
    gains: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    record: bool = False


def shapes(config: Config) -> dict[str, Draw]:
    """Differences with mean zero, in [-1, 1]."""
    environment_kind = replace(lives("ppo").train["cart pole"], num_iterations=8)
    scores = environment_kind.scores(load("adam", lr=0.03), seeded(1), config.num_lives)

    def of_lives(generator: Generator, num: int) -> Float[Tensor, " n"]:
        one, other = torch.randint(len(scores), (2, num), generator=generator)
        return scores[one] - scores[other]

    def rare(generator: Generator, num: int) -> Float[Tensor, " n"]:
        return torch.where(torch.rand(num, generator=generator) < 0.05, 0.95, -0.05)

    return {
        "lives of PPO": of_lives,
        "uniform": lambda g, n: 2.0 * torch.rand(n, generator=g) - 1.0,
        "small": lambda g, n: (0.02 * torch.randn(n, generator=g)).clamp(-1.0, 1.0),
        "rarely much better": rare,
        "rarely much worse": lambda g, n: -rare(g, n),
    }


def judged(gate: Gate, draw: Draw, trial: int, generator: Generator) -> Verdict:
    """The gate's verdict on differences; scores that have them, around one half, are handed to it."""

    def old(g: Generator, num: int) -> Tensor:
        return 0.5 - 0.5 * draw(g, num)

    def new(g: Generator, num: int) -> Tensor:
        return 0.5 + 0.5 * draw(g, num)

    return gate.judge(old, new, trial, generator)


def ordinary(generator: Generator, num: int) -> Float[Tensor, " n"]:
    """Scores of the old version beside hostile ones."""
    return 0.4 + 0.2 * torch.rand(num, generator=generator)


SLOW = "takes too long"


def hostile() -> dict[str, Score]:
    """Scores of proposals that must not pass, by what they do."""

    def crashes(generator: Generator, num: int) -> Tensor:
        raise RuntimeError("a proposal that crashes")

    def late(generator: Generator, num: int) -> Tensor:
        time.sleep(0.1)
        return torch.ones(num)

    def hidden(generator: Generator, num: int) -> Tensor:
        return torch.ones(num).index_fill(0, torch.tensor(num - 1), float("nan"))

    def ruinous(generator: Generator, num: int) -> Tensor:
        old = ordinary(generator, num)
        return torch.where(torch.rand(num, generator=generator) < 0.1, 0.0, old + 0.05)

    def lucky(generator: Generator, num: int) -> Tensor:
        old = ordinary(generator, num)
        return torch.where(torch.rand(num, generator=generator) < 0.05, 1.0, old - 0.03)

    return {
        "crashes": crashes,
        "tells scores that are not numbers": lambda g, n: torch.full((n,), float("nan")),
        "tells one score that is not a number": hidden,
        "tells scores beyond all bounds": lambda g, n: torch.full((n,), 1e9),
        "tells scores a little above 1": lambda g, n: torch.full((n,), 1.001),
        "tells more scores than tasks": lambda g, n: torch.ones(2 * n),
        SLOW: late,
        "mostly a little better, one time in ten ruinous": ruinous,
        "one time in twenty perfect, else a little worse": lucky,
    }


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a shape of null runs, one a hostile kind, one a gain and trial."""
    gate = Gate(config.alpha, config.batch, config.max_pairs, pace=config.pace, max_slowdown=None)
    hasty = replace(gate, max_slowdown=10.0, grace=0.01)
    draws = shapes(config)
    for name, draw in draws.items():
        yield {"shape": name, **counted(partial(judged, gate, draw), config.num_runs, config.num_proposals)}
    for name, score in hostile().items():
        by, num_runs = (hasty, config.num_slow) if name == SLOW else (gate, config.num_runs)
        yield {"hostile": name, **counted(partial(by.judge, ordinary, score), num_runs, config.num_proposals)}
    of_lives = draws["lives of PPO"]
    deviation = float(of_lives(seeded(0), 100_000).std())
    for gain in config.gains:
        for trial in (1, 20):
            better: Draw = lambda g, n, gain=gain: (of_lives(g, n) + gain * deviation).clamp(-1.0, 1.0)  # noqa: E731
            verdicts = [judged(gate, better, trial, seeded(20_000 + i)) for i in range(200)]
            share = sum(v.accepted for v in verdicts) / len(verdicts)
            pairs = sum(v.pairs for v in verdicts) / len(verdicts)
            yield {"gain": gain, "deviation": deviation, "trial": trial, "accepted": share, "pairs": pairs}


def counted(judge: Callable[[int, Generator], Verdict], num_runs: int, num_proposals: int) -> dict[str, Any]:
    """Runs of proposals: how many let any through, how many passed in all, and what they were rejected for."""
    false, accepted, pairs = 0, 0, 0
    reasons: Counter[str] = Counter()
    for number in range(num_runs):
        generator = seeded(10_000 + number)
        verdicts = [judge(trial, generator) for trial in range(1, num_proposals + 1)]
        passed = sum(verdict.accepted for verdict in verdicts)
        false, accepted, pairs = false + (passed > 0), accepted + passed, pairs + sum(v.pairs for v in verdicts)
        reasons.update(verdict.reason for verdict in verdicts)
    row = {"runs": num_runs, "proposals": num_proposals, "false_runs": false, "false_acceptances": accepted}
    row |= {"upper": upper(false, num_runs), "pairs": pairs / (num_runs * num_proposals), "reasons": reasons}
    print(row, flush=True)
    return row


def upper(false: int, num: int, confidence: float = 0.95) -> float:
    """The largest probability that so few false runs leave likely (Clopper and Pearson, one-sided)."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        ps = torch.distributions.Binomial(num, torch.tensor(middle, dtype=torch.float64))
        at_most = float(ps.log_prob(torch.arange(false + 1, dtype=torch.float64)).exp().sum())
        low, high = (middle, high) if at_most > 1 - confidence else (low, middle)
    return high


def shown(rows: list[dict[str, Any]]) -> Table:
    """What came of it."""
    found = Table(*HEADS)
    for line in lines(rows):
        found.add_row(*line)
    return found


HEADS = ("proposals", "accepted", "pairs, each", "rejected for")


def lines(rows: list[dict[str, Any]]) -> list[list[str]]:
    """A line a row."""
    found = []
    for row in rows:
        pairs = f"{row['pairs']:.0f}"
        if "gain" in row:
            name = f"better by {row['gain']:g} deviations, trial {row['trial']}"
            found.append([name, f"{row['accepted']:.0%}", pairs, ""])
            continue
        name = f"no better: {row['shape']}" if "shape" in row else f"hostile: {row['hostile']}"
        reasons = ", ".join(sorted(set(row["reasons"]) - {"better"}, key=lambda reason: -row["reasons"][reason]))
        found.append([name, f"{row['false_acceptances']} of {row['runs'] * row['proposals']:,}", pairs, reasons])
    return found


def table() -> str:
    """The recorded rows in Markdown."""
    rows = read("agents_gate")
    nulls, first = [row for row in rows if "shape" in row], rows[0]["config"]
    runs, false = sum(row["runs"] for row in nulls), sum(row["false_runs"] for row in nulls)
    told = (
        f"Proposals in runs of {nulls[0]['proposals']}; alpha {first['alpha']:g} for a whole run, at most "
        f"{first['max_pairs']:,} pairs a trial. Of all {runs} runs of what is no better {false or 'none'} had a false "
        f"acceptance: with 95% confidence below {upper(false, runs):.1%} of such runs have one, all shapes taken "
        "together. Gains are in standard deviations of a paired difference of lives of PPO, 200 trials each; pairs are "
        "means."
    )
    return markdown(list(HEADS), lines(rows), f"{told} {rows[0]['machine']}, commit {commits(rows)}.")


def main(config: Config) -> None:
    """Run all, show, and write the rows where they are wanted."""
    torch.set_num_threads(1)
    if config.record:  # rows are written as they come
        print(write("agents_gate", replace(config, record=False), run(config), RESULTS))
    Console().print(shown(read("agents_gate") if config.record else list(run(config))))


if __name__ == "__main__":
    main(tyro.cli(Config))

"""How often does the gate let a change through that is none, and how small an improvement does it see?

    python -m benchmarks.agents_gate --record

A run is 200 proposals, one after the other, each judged by the gate as an agent's are, on up to `max_pairs` paired
differences. In a null run every proposal is as good as what is there: differences have mean zero, in five shapes, one
of which is that of lives of PPO with Adam in different worlds. A run with any acceptance counts as a false one. Power:
how often an improvement of a size is accepted as first and as 20th trial.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import tyro
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Generator, Tensor

from benchmarks.record import RESULTS, read, write
from l2o.agents.gate import Gate, Verdict
from l2o.agents.suites import lives
from l2o.load import load
from l2o.types import seeded

Draw = Callable[[Generator, int], Float[Tensor, " n"]]


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        num_runs: of each shape.
        num_proposals: in a run.
        alpha: of the gate, for a whole run.
        batch, max_pairs: of the gate.
        num_lives: of PPO, from which differences of one shape are drawn.
        gains: improvements, in standard deviations of a difference, whose acceptance is measured.
        record: keep the rows in benchmarks/results.
    """

    num_runs: int = 100
    num_proposals: int = 200
    alpha: float = 0.05
    batch: int = 64
    max_pairs: int = 256
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


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a shape of null runs, one a gain and trial."""
    gate = Gate(config.alpha, config.batch, config.max_pairs, pace=0.0, max_slowdown=None)
    for name, draw in shapes(config).items():
        false, accepted = 0, 0
        for number in range(config.num_runs):
            generator = seeded(10_000 + number)
            taken = sum(judged(gate, draw, trial, generator).accepted for trial in range(1, config.num_proposals + 1))
            false, accepted = false + (taken > 0), accepted + taken
        row = {"shape": name, "runs": config.num_runs, "false_runs": false, "false_acceptances": accepted}
        row["upper"] = upper(false, config.num_runs)
        print(row, flush=True)
        yield row
    of_lives = shapes(config)["lives of PPO"]
    deviation = float(of_lives(seeded(0), 100_000).std())
    for gain in config.gains:
        for trial in (1, 20):
            better: Draw = lambda g, n, gain=gain: (of_lives(g, n) + gain * deviation).clamp(-1.0, 1.0)  # noqa: E731
            verdicts = [judged(gate, better, trial, seeded(20_000 + i)) for i in range(200)]
            share = sum(v.accepted for v in verdicts) / len(verdicts)
            pairs = sum(v.pairs for v in verdicts) / len(verdicts)
            yield {"gain": gain, "deviation": deviation, "trial": trial, "accepted": share, "pairs": pairs}


def upper(false: int, num: int, level: float = 0.95) -> float:
    """The largest probability that so few false runs leave likely (Clopper and Pearson, one-sided)."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        ps = torch.distributions.Binomial(num, torch.tensor(middle, dtype=torch.float64))
        at_most = float(ps.log_prob(torch.arange(false + 1, dtype=torch.float64)).exp().sum())
        low, high = (middle, high) if at_most > 1 - level else (low, middle)
    return high


def shown(rows: list[dict[str, Any]]) -> Table:
    """What came of it."""
    table = Table("proposals", "found")
    for row in rows:
        if "shape" in row:
            told = f"{row['false_runs']} of {row['runs']} runs with a false acceptance (95% below {row['upper']:.2%})"
            table.add_row(f"null, {row['shape']}", told)
        else:
            told = f"accepted {row['accepted']:.0%} of times, after {row['pairs']:.0f} pairs"
            table.add_row(f"better by {row['gain']:g} deviations, trial {row['trial']}", told)
    return table


def main(config: Config) -> None:
    """Run all, show, and write the rows where they are wanted."""
    torch.set_num_threads(1)
    if config.record:  # rows are written as they come
        print(write("agents_gate", replace(config, record=False), run(config), RESULTS))
    Console().print(shown(read("agents_gate") if config.record else list(run(config))))


if __name__ == "__main__":
    main(tyro.cli(Config))

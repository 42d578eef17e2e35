"""Does a learned optimizer train itself as well as Adam trains it, and does the gate keep it from harm?

    python -m benchmarks.agents_recursion --record

A rule is meta-trained to fit waves by small perceptrons in 15 steps, by evolution strategies over whole trainings. Who
takes the outer steps is asked: Adam, or the rule itself, each with the gate and without. With the gate the last
accepted version drives, and a round that is worse is taken back; without it every round counts. Held out are 500 waves
that nothing else sees.
"""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import tyro
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Generator, Tensor

from benchmarks.record import RESULTS, markdown, read, write
from l2o.agents.gate import Gate, Verdict
from l2o.agents.improve import Door
from l2o.agents.lineage import Lineage
from l2o.agents.proposers.recursion import Driver, Island, Recursion
from l2o.agents.spec import AgentSpec, packed, unpacked
from l2o.distributed import LocalPool, WorkerPool
from l2o.estimators import ES, MetaLoss, Problems, Truncation
from l2o.inner_loop import Lanes
from l2o.load import load
from l2o.rules.base import UpdateRule
from l2o.tasks.base import Task, TaskFamily
from l2o.training.config import train_only
from l2o.types import Batch, Params, Theta, draw_seed, seeded

NUM_POINTS, HIDDEN = 32, 8
LEAST, MOST = -5.0, 1.0
"""Range of a mean logarithm of losses that scores tell apart."""


@dataclass(frozen=True)
class Wave(Task):
    """Fit a sine of random size, phase and frequency by one hidden layer of tanh, full batch."""

    x: Float[Tensor, " n"]
    y: Float[Tensor, " n"]

    def init(self, generator: Generator) -> Params:
        first = torch.randn(2, HIDDEN, generator=generator)
        last = torch.randn(1, HIDDEN, generator=generator) / HIDDEN**0.5
        return {"in.weight": 1.5 * first[:1].T, "in.bias": first[1], "out.weight": last, "out.bias": torch.zeros(1)}

    def sample_batch(self, generator: Generator) -> Batch:
        return None

    def loss(self, params: Params, batch: Batch) -> Float[Tensor, ""]:
        hidden = torch.tanh(self.x.unsqueeze(-1) * params["in.weight"][:, 0] + params["in.bias"])
        return (hidden @ params["out.weight"][0] + params["out.bias"] - self.y).square().mean()


@dataclass(frozen=True)
class Waves(TaskFamily):
    """Waves of any kind."""

    def sample(self, generator: Generator) -> Wave:
        x = 4.0 * torch.rand(NUM_POINTS, generator=generator) - 2.0
        size, phase, frequency = torch.rand(3, generator=generator)
        return Wave(x, (0.3 + 2.0 * size) * torch.sin((0.5 + 2.0 * frequency) * x + 2.0 * math.pi * phase))


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        rule: what is trained; a fresh one.
        only: parameters of it that are (a regular expression).
        std: of perturbations.
        drivers: who takes the outer steps.
        gates: with the gate, without it.
        adam_rates: Adam's learning rates.
        self_rates: multipliers of the rule's own steps.
        rounds: of `round_steps` outer steps.
        num_tasks: in a meta-gradient.
        num_steps: of a training.
        num_seeds: runs of each.
        held_out: waves that are reported on.
        record: keep the rows in benchmarks/results.
    """

    rule: str = "learnedmuon"
    only: str = r"steering\.(write\..*|exponents)"
    std: float = 0.1
    drivers: tuple[Driver, ...] = ("adam", "self")
    gates: tuple[bool, ...] = (False, True)
    adam_rates: tuple[float, ...] = (0.02, 0.05)
    self_rates: tuple[float, ...] = (1.0, 2.0)
    rounds: int = 5
    round_steps: int = 8
    num_tasks: int = 24
    num_steps: int = 15
    num_seeds: int = 5
    held_out: int = 500
    record: bool = False


@torch.no_grad()
def log_losses(rule: UpdateRule, generator: Generator, num: int, num_steps: int) -> Float[Tensor, " num"]:
    """Mean logarithm of the losses after each step of fresh trainings."""
    generators = [seeded(draw_seed(generator)) for _ in range(num)]
    lanes = Lanes([Waves().sample(g) for g in generators], rule)
    state = lanes.reset(generators, torch.full((num,), float(num_steps)).double())
    state, losses = lanes.unroll(dict(rule.named_parameters()), state, [None] * num_steps)
    losses = torch.cat([losses[1:], lanes.losses(state.params, None).unsqueeze(0)])
    return (losses + 1e-3).log().mean(dim=0)


def score(spec: AgentSpec, generator: Generator, num: int, num_steps: int) -> Float[Tensor, " num"]:
    """The same as numbers from 0, bad, to 1."""
    found = log_losses(unpacked(spec["optimizer"]), generator, num, num_steps)
    return ((MOST - found) / (MOST - LEAST)).clamp(0.0, 1.0)


def rounds(config: Config, driver: Driver, gated: bool, rate: float, seed: int) -> tuple[list[float], int]:
    """Held-out mean logarithm of losses before and after each round, and how many rounds were taken back."""
    with torch.random.fork_rng():
        torch.manual_seed(100 + seed)
        rule = load(config.rule)
    train_only(rule, config.only)

    def make_pool(who: Driver, theta: Theta) -> WorkerPool:
        truncation = Truncation(config.num_steps, config.num_steps)
        problems = Problems(rule, Waves(), config.num_tasks, truncation=truncation, meta_loss=MetaLoss(log=True))
        total = config.rounds * config.round_steps
        return LocalPool(
            Island(ES(problems, config.std), who, rate, num_steps=config.round_steps, total_steps=total), theta, 1, seed
        )

    recursion = Recursion(rule, make_pool, driver=driver)
    spec, curve, rejected = AgentSpec.of(optimizer=packed(rule)), [], 0
    with tempfile.TemporaryDirectory() as folder:
        lineage, gate = Lineage(folder), Gate(batch=256, max_pairs=2048, max_slowdown=None)
        lineage.begin(spec)
        door = Door(gate, lineage, lambda s, g, num: score(s, g, num, config.num_steps))
        generator = seeded(7919 + seed)
        best = spec
        for step in range(config.rounds + 1):
            with torch.random.fork_rng():
                held_out = log_losses(unpacked(best["optimizer"]), seeded(777), config.held_out, config.num_steps)
            curve.append(float(held_out.mean()))
            if step == config.rounds:
                break
            if gated:
                door.next_round()
                best, verdict = door.ask(best, recursion, generator)
                rejected += verdict.reason not in ("better", "undecided")
            else:
                proposal = recursion.propose(best, generator)
                best = best.replaced("optimizer", proposal.value, step + 1)
                recursion.hear(proposal, Verdict(True, "not asked", 1.0, 1.0, 0.0, 0))
    return curve, rejected


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a method, rate and seed; all of a seed before the next one."""
    for seed in range(config.num_seeds):
        for driver, gated in itertools.product(config.drivers, config.gates):
            for rate in config.adam_rates if driver == "adam" else config.self_rates:
                began = time.process_time()
                curve, rejected = rounds(config, driver, gated, rate, seed)
                row = {"driver": driver, "gate": gated, "rate": rate, "seed": seed}
                plain = [x if math.isfinite(x) else None for x in curve]
                row |= {"curve": plain, "final": plain[-1], "rejected": rejected}
                row["cpu_seconds"] = time.process_time() - began
                print(driver, gated, rate, seed, [round(x, 3) for x in curve], rejected, flush=True)
                yield row


def shown(rows: list[dict[str, Any]]) -> Table:
    """Held-out log losses at the end, of each method and rate."""
    table = Table(
        "outer optimizer", "gate", "rate", "held-out log loss, by seed", "worst rise in a round", "taken back"
    )
    for key in dict.fromkeys((r["driver"], r["gate"], r["rate"]) for r in rows):
        of = [r for r in rows if (r["driver"], r["gate"], r["rate"]) == key]
        finals = ", ".join("diverged" if r["final"] is None else f"{r['final']:.3f}" for r in of)
        rises = [
            math.inf if b is None or a is None else b - a
            for r in of
            for a, b in zip(r["curve"], r["curve"][1:], strict=False)
        ]
        table.add_row(
            key[0],
            "yes" if key[1] else "no",
            f"{key[2]:g}",
            finals,
            f"{max(rises):+.3f}",
            str(sum(r["rejected"] for r in of)),
        )
    return table


def table() -> str:
    """The recorded rows in Markdown."""
    rows = read("agents_recursion")
    heads = ["who takes the outer steps", "gate", "rate", "held-out log loss by seed", "rounds taken back"]
    lines = []
    for key in dict.fromkeys((row["driver"], row["gate"], row["rate"]) for row in rows):
        of = [row for row in rows if (row["driver"], row["gate"], row["rate"]) == key]
        finals = ", ".join("diverged" if row["final"] is None else f"{row['final']:.3f}" for row in of)
        driver = "the rule itself" if key[0] == "self" else "Adam"
        rejected = sum(row["rejected"] for row in of)
        lines.append([driver, "yes" if key[1] else "no", f"{key[2]:g}", finals, str(rejected)])
    began, first = rows[0]["curve"][0], rows[0]
    told = f"Log loss of 500 held-out trainings; {began:.3f} before, {len(first['curve']) - 1} rounds."
    return markdown(heads, lines, f"{told} {first['machine']}, commit {first['commit']}.")


def main(config: Config) -> None:
    """Run all, and write the rows where they are wanted."""
    torch.set_num_threads(1)
    if config.record:  # rows are written as they come
        print(write("agents_recursion", replace(config, record=False), run(config), RESULTS))
    Console().print(shown(read("agents_recursion") if config.record else list(run(config))))


if __name__ == "__main__":
    main(tyro.cli(Config))

"""Does it cost quality to keep a rule's state in bfloat16?

Held-out digits perceptrons are trained through `LearnedOptimizer` with the state in float32, in bfloat16 rounded at
random (`state_dtype=torch.bfloat16`) and, for comparison, in bfloat16 rounded to the nearest. The rules: Adam, whose
second moment has decay 0.999, and the matrix rule, meta-trained here by PES so that it reads all of its averages. Every
run of a seed starts from the same network and sees the same batches.

    python -m benchmarks.state_precision --record
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.record import keep, readable
from l2o import LearnedOptimizer
from l2o.distributed import LocalPool
from l2o.estimators import PES, MetaLoss, Problems, Truncation
from l2o.rules import Adam, MatrixRule, UpdateRule
from l2o.tasks import MLPFamily
from l2o.tasks.base import Task
from l2o.training.evaluate import interval
from l2o.training.meta_trainer import MetaTrainer, theta_of
from l2o.training.suites import load_suite
from l2o.types import seeded

STATES = ("float32", "bfloat16", "bfloat16, nearest")


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        num_steps: length of a run.
        num_seeds: runs of each network.
        meta_steps: outer steps of meta-training the matrix rule.
        threads: CPU threads.
        out: folder of the rows.
        record: keep the rows in benchmarks/results.
    """

    num_steps: int = 1000
    num_seeds: int = 10
    meta_steps: int = 300
    threads: int = 1
    out: Path = Path("runs/state_precision")
    record: bool = False


def meta_trained(config: Config) -> MatrixRule:
    """The matrix rule after some outer steps on digits perceptrons."""
    torch.manual_seed(0)
    rule = MatrixRule(step_scale=1e-2)
    problems = Problems(
        rule,
        MLPFamily(hidden=(16, 32)),
        num_tasks=8,
        truncation=Truncation(window=20, horizon=(100, 1000), stagger=True),
        meta_loss=MetaLoss(relative=True, bound=1.0),
    )
    outer = torch.optim.Adam(rule.parameters(), lr=3e-3)
    trainer = MetaTrainer(rule, LocalPool(PES(problems), theta_of(rule)), outer)
    for _ in range(config.meta_steps):
        trainer.step()
    return rule


def final_loss(rule: UpdateRule, task: Task, state: str, seed: int, num_steps: int) -> float:
    """Mean training loss over the last tenth of a run."""
    generator = seeded(seed)
    params = {name: torch.nn.Parameter(p) for name, p in task.init(generator).items()}
    dtype = torch.bfloat16 if state == "bfloat16" else None
    optimizer = LearnedOptimizer(params.values(), rule, total_steps=num_steps, state_dtype=dtype)
    losses = []
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss = task.loss(dict(params), task.sample_batch(generator))
        loss.backward()
        optimizer.step(loss=loss)
        losses.append(loss.detach())
        if state == "bfloat16, nearest":
            round_state(optimizer)
    return float(torch.stack(losses[-num_steps // 10 :]).mean())


def round_state(optimizer: LearnedOptimizer) -> None:
    """What `state_dtype` would do without random rounding."""
    for slots in optimizer.state.values():
        for key in optimizer.rule.large_slots:
            if key in slots:
                slots[key] = slots[key].to(torch.bfloat16).float()


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a rule, network and kind of state."""
    tasks = load_suite("digits-mlp").test
    rules: dict[str, UpdateRule] = {"adam": Adam(lr=1e-2), "matrix, meta-trained": meta_trained(config)}
    for name, rule in rules.items():
        for title, task in tasks.items():
            losses = {
                state: torch.tensor(
                    [final_loss(rule, task, state, seed, config.num_steps) for seed in range(config.num_seeds)]
                )
                for state in STATES
            }
            for state in STATES:
                ratios = (losses[state] / losses["float32"]).log()
                low, high = interval(ratios.double())
                yield {
                    "rule": name,
                    "task": title,
                    "state": state,
                    "final_loss": float(losses[state].mean()),
                    "ratio": float(ratios.mean().exp()),
                    "ratio_low": float(torch.tensor(low).exp()),
                    "ratio_high": float(torch.tensor(high).exp()),
                }


def main(config: Config) -> None:
    """Train, write, show."""
    torch.set_num_threads(config.threads)
    rows = list(run(config))
    keep("state_precision", config, rows)
    shown = Table("rule", "network", "state", "final training loss", "over float32", "95% interval")
    for row in rows:
        bounds = f"{row['ratio_low']:.3f} to {row['ratio_high']:.3f}"
        shown.add_row(
            row["rule"], row["task"], row["state"], readable(row["final_loss"]), f"{row['ratio']:.3f}", bounds
        )
    Console(width=120).print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

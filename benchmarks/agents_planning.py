"""Does a learned optimizer find better plans than CEM, MPPI and Adam, with equally many rollouts of the model?

    python -m benchmarks.agents_planning --record

Random point masses, each with a mass, a drag, a goal and three soft obstacles of its own, plans of 20 steps,
31 rollouts a plan (a gradient counts as 3). In `open` a plan is made from the start; `heavy` are worlds with 1.8 times
the mass, which neither tuning nor meta-training saw; in `closed` a plan is made at each of 25 steps, with the same
budget, the search beginning where the last one ended or at rest, whichever is better on validation worlds, and what is
lived through counts.

Baselines are tuned on validation worlds over the settings in `BASELINES`, for open and closed loop each by itself.
Rules are meta-trained for each by itself too: `LearnedMuon` on first plans, the MLP on what it meets in closed loop as
well. Settings are chosen on validation worlds; but that a narrower MLP at twice the rate fails in two of three
meta-trainings was seen on the test worlds too.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import tyro
from jaxtyping import Float
from torch import Generator, Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from benchmarks.record import RESULTS, commits, markdown, read, write
from l2o.agents.planning.gradient_planner import ROLLOUTS, GradientPlanner
from l2o.agents.planning.model import Model
from l2o.agents.planning.plan_family import PlanFamily, met_by
from l2o.agents.planning.planner import CEM, MPPI, Planner
from l2o.distributed.pool import LocalPool
from l2o.estimators import Backprop, Problems, Truncation
from l2o.estimators.meta_loss import MetaLoss
from l2o.rules import Adam, LearnedMuon, MLPRule, UpdateRule
from l2o.training.meta_trainer import MetaTrainer, theta_of
from l2o.types import seeded

SECONDS, FORCE, OBSTACLES = 0.15, 3.0, 3
VALIDATION, TEST, HEAVY = 98, 99, 97
"""Seeds of worlds."""

BASELINES: dict[str, list[Planner]] = {
    "CEM": [CEM(*s) for s in itertools.product((2, 3, 5), (0.2, 0.4, 0.7), (0.1, 0.3), (0.0, 0.3))],
    "MPPI": [MPPI(*s) for s in itertools.product((2, 3, 5), (0.2, 0.4, 0.7), (0.1, 0.3, 1.0))],
    "Adam": [GradientPlanner(Adam(lr=lr)) for lr in (0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)],
}

LEARNED = {"learned on first plans": False, "learned in closed loop": True}
"""Whether a rule learns from what it meets in closed loop too."""


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        planners: which of them; all if empty.
        budget: rollouts of a plan.
        num_worlds: of each test.
        num_closed: worlds that are lived through.
        num_seeds: meta-trainings of each learned planner.
        num_tasks: of an outer step.
        step_scale: of `LearnedMuon`.
        hidden_size: of the MLP.
        num_outer, outer_lr: of the two.
        num_stages: of the MLP's meta-training; at each it is told anew what it meets in closed loop.
        record: keep the rows in benchmarks/results.
    """

    planners: tuple[str, ...] = ()
    budget: int = 31
    num_worlds: int = 1000
    num_closed: int = 200
    num_seeds: int = 3
    num_tasks: int = 32
    step_scale: float = 0.2
    hidden_size: int = 16
    num_outer: tuple[int, int] = (200, 200)
    outer_lr: tuple[float, float] = (3e-3, 5e-3)
    num_stages: int = 4
    record: bool = False


@dataclass(frozen=True, eq=False)
class Field(Model):
    """A point mass among soft hills that is to come to rest at its goal."""

    world: dict[str, Tensor]
    horizon: int = 20
    action_size: int = 2
    limit: float = FORCE

    def step(self, state: dict[str, Tensor], action: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        w = self.world
        velocity = state["velocity"] * (1.0 - SECONDS * w["drag"][:, None]) + SECONDS * action / w["mass"][:, None]
        position = state["position"] + SECONDS * velocity
        away = (position.unsqueeze(-2) - w["middle"]).square().sum(-1)
        hills = 5.0 * torch.exp(-away / (2.0 * (w["radius"] / 1.5).square())).sum(-1)
        cost = (position - w["goal"]).square().sum(-1) + hills + 0.01 * action.square().sum(-1)
        return {"position": position, "velocity": velocity}, cost / 20.0

    def final(self, state: dict[str, Tensor]) -> Tensor:
        """Two for the distance, squared, and 0.3 for the speed."""
        away = (state["position"] - self.world["goal"]).square().sum(-1)
        return 2.0 * away + 0.3 * state["velocity"].square().sum(-1)


def make(world: dict[str, Tensor]) -> Model:
    """The model of a batch of worlds."""
    return Field(world)


def sample(generator: Generator, num: int, heavier: float = 1.0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Worlds, and masses at rest in their middle."""
    u = torch.rand(num, 16, generator=generator)
    angle = 2.0 * math.pi * u[:, 0]
    goal = torch.stack([angle.cos(), angle.sin()], -1) * (1.0 + 0.5 * u[:, 1:2])
    middle = goal[:, None] * (0.3 + 0.5 * u[:, 4:7, None]) + 0.5 * (u[:, 7:13].view(num, OBSTACLES, 2) - 0.5)
    world = {
        "goal": goal,
        "mass": heavier * (0.5 + u[:, 2]),
        "drag": 0.5 * u[:, 3],
        "middle": middle,
        "radius": 0.15 + 0.15 * u[:, 13:16],
    }
    return world, {"position": torch.zeros(num, 2), "velocity": torch.zeros(num, 2)}


def open_loop(planner: Planner, config: Config, seed: int, num: int, heavier: float = 1.0) -> Float[Tensor, " n"]:
    """What plans cost."""
    world, state = sample(seeded(seed), num, heavier)
    return planner.plan(make(world), state, config.budget, seeded(1)).cost


def closed_loop(planner: Planner, config: Config, seed: int, num: int, warm: bool, steps: int = 25) -> Tensor:
    """What 25 steps cost, each the first of a plan; `warm` begins a search where the last one ended."""
    world, state = sample(seeded(seed), num)
    model, generator, first, total = make(world), seeded(1), None, torch.zeros(num)
    for _ in range(steps):
        plan = planner.plan(model, state, config.budget, generator, first)
        with torch.no_grad():
            state, cost = model.step(state, plan.actions[:, 0])
        total, first = total + cost, plan.shifted() if warm else None
    return total + model.final(state)


def learned(config: Config, seed: int, closed: bool) -> tuple[Planner, float]:
    """A meta-trained planner, for first plans or for closed loop, and the CPU seconds it took."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        rule: UpdateRule = MLPRule(config.hidden_size) if closed else LearnedMuon(step_scale=config.step_scale)
    fresh, num_outer = PlanFamily(make, sample), config.num_outer[closed]
    optimizer = torch.optim.Adam(rule.parameters(), config.outer_lr[closed])
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, num_outer)
    began, num_stages = time.process_time(), config.num_stages if closed else 1
    planner: Planner = GradientPlanner(Adam(lr=0.03))  # whose closed loop the first stage is about
    for stage in range(num_stages):
        met = met_by(planner, fresh, 60, 25, config.budget, seeded(100 * seed + stage)) if closed else None
        trainer = _trainer(rule, replace(fresh, met=met), config, optimizer, schedule, num_stages * seed + stage)
        losses = [trainer.step()["meta_loss"] for _ in range(num_outer // num_stages)]
        print(f"       {sum(losses) / len(losses):.3f}, {time.process_time() - began:.0f} s", flush=True)
        planner = GradientPlanner(rule)
    return planner, time.process_time() - began


def _trainer(
    rule: UpdateRule, family: PlanFamily, config: Config, optimizer: Optimizer, schedule: LRScheduler, seed: int
) -> MetaTrainer:
    steps = (config.budget - 1) // ROLLOUTS
    horizon, meta_loss = Truncation(steps, steps), MetaLoss("final", bound=10.0)
    problems = Problems(rule, family, config.num_tasks, truncation=horizon, meta_loss=meta_loss)
    return MetaTrainer(rule, LocalPool(Backprop(problems), theta_of(rule), seed=seed), optimizer, schedule)


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a planner and seed."""
    wanted = config.planners or (*BASELINES, *LEARNED)
    for name, planners in ((name, BASELINES[name]) for name in BASELINES if name in wanted):
        opened = [float(open_loop(planner, config, VALIDATION, 300).mean()) for planner in planners]
        closed = [warmth(planner, config)[0] for planner in planners]
        chosen = planners[opened.index(min(opened))], planners[closed.index(min(closed))]
        yield _row(name, *chosen, config, setting=told(chosen[0]), setting_closed=told(chosen[1]))
    for seed in range(config.num_seeds):
        for name, closed_too in ((name, LEARNED[name]) for name in LEARNED if name in wanted):
            planner, seconds = learned(config, seed, closed_too)
            yield _row(name, planner, planner, config, seed=seed, train_cpu_seconds=seconds)


def warmth(planner: Planner, config: Config) -> tuple[float, bool]:
    """What validation worlds cost in closed loop, and whether searches begin with the last plan."""
    return min((float(closed_loop(planner, config, VALIDATION, 60, warm).mean()), warm) for warm in (True, False))


def _row(name: str, opened: Planner, closed: Planner, config: Config, **more: Any) -> dict[str, Any]:
    warm = warmth(closed, config)[1]
    found = {
        "open": open_loop(opened, config, TEST, config.num_worlds),
        "heavy": open_loop(opened, config, HEAVY, config.num_worlds // 2, 1.8),
        "closed": closed_loop(closed, config, TEST, config.num_closed, warm),
    }
    row: dict[str, Any] = {"planner": name, "warm": warm, **more}
    for kind, costs in found.items():
        row |= {kind: float(costs.mean()), f"{kind}_error": float(costs.std() / len(costs) ** 0.5)}
    shown = "  ".join(f"{kind} {row[kind]:.3f} +- {row[f'{kind}_error']:.3f}" for kind in found)
    print(f"{name:8} {shown}  {more}", flush=True)
    return row


def table() -> str:
    """The recorded rows in Markdown."""
    rows = read("agents_planning")
    lines = []
    for name in dict.fromkeys(row["planner"] for row in rows):
        alike = [row for row in rows if row["planner"] == name]
        cells = [f"{sum(row[kind] for row in alike) / len(alike):.3f}" for kind in ("open", "heavy", "closed")]
        if len(alike) > 1:
            cells = [
                f"{cell} ({min(row[kind] for row in alike):.3f} to {max(row[kind] for row in alike):.3f})"
                for cell, kind in zip(cells, ("open", "heavy", "closed"), strict=True)
            ]
        lines.append([name, *cells])
    config = rows[-1]["config"]
    caption = (
        f"Mean cost of {config['num_worlds']} worlds, {config['num_worlds'] // 2} heavy ones and "
        f"{config['num_closed']} in closed loop; {config['num_seeds']} meta-trainings of each learned planner: "
        f"mean and range. {rows[0]['machine']}, commits {commits(rows)}."
    )
    return markdown(["planner", "plan from the start", "1.8 times the mass", "closed loop"], lines, caption)


def told(planner: Planner) -> str:
    """A baseline's setting."""
    return f"lr {planner.rule.nominal_lr:.2g}" if isinstance(planner, GradientPlanner) else str(planner)


def main(config: Config) -> None:
    """Compare all, and write the rows where they are wanted."""
    torch.set_num_threads(1)
    rows = list(run(config))
    if config.record:
        print(write("agents_planning", config, rows, RESULTS, by=("planner", "seed")))


if __name__ == "__main__":
    main(tyro.cli(Config))

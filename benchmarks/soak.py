"""Does a long run on Ray stay well while its workers die? (two hours, a worker killed every minute)

    python -m benchmarks.soak --record

Meta-trains an MLP rule by PES with Ray's workers, kills one of their processes at random every minute, and notes every
half minute how much memory driver and workers have, the meta-loss, and how many hosts were lost. Afterwards the same
number of outer steps is made without any death by workers in this process: the rows tell whether theta is the same.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console

from benchmarks.record import RESULTS, write
from l2o.distributed import LocalPool, WorkerPool
from l2o.distributed.ray_pool import RayBackend, RayPool
from l2o.estimators import PES, Problems, Truncation
from l2o.rules import MLPRule
from l2o.tasks import MLPFamily
from l2o.training.ledger import Ledger, audit
from l2o.training.meta_trainer import MetaTrainer, theta_of


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        hours: of the run.
        workers: of Ray.
        kill_every: seconds between deaths.
        note_every: seconds between rows.
        num_tasks: tasks of a worker.
        seed: of everything, and of who dies.
        out: folder of ledger and rows.
        record: keep the rows in benchmarks/results.
    """

    hours: float = 2.0
    workers: int = 2
    kill_every: float = 60.0
    note_every: float = 30.0
    num_tasks: int = 8
    seed: int = 0
    out: Path = Path("runs/soak")
    record: bool = False


def trainer(config: Config, on_ray: bool) -> MetaTrainer:
    """Small perceptrons on digits."""
    torch.manual_seed(config.seed)
    rule = MLPRule()
    family = MLPFamily(hidden=(8, 16), activation=("tanh", "relu"))
    problems = Problems(rule, family, config.num_tasks, truncation=Truncation(20, (60, 200)), order="first")
    estimator, theta = PES(problems, sign_delta=True), theta_of(rule)
    pool: WorkerPool
    pool = (RayPool if on_ray else LocalPool)(estimator, theta, config.workers, config.seed)
    return MetaTrainer(rule, pool, torch.optim.Adam(rule.parameters(), lr=1e-3))


def resident(pid: int) -> int:
    """Bytes of memory of a process; 0 if it is no more."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")), 0)


def run(config: Config) -> Iterator[dict[str, Any]]:
    """A row every half minute, and one at the end."""
    import ray

    torch.set_num_threads(1)
    chance = random.Random(config.seed)
    ours = trainer(config, on_ray=True)
    assert isinstance(ours.pool, RayPool) and isinstance(ours.pool.backend, RayBackend)
    hosts = ours.pool.backend.hosts
    ledger = Ledger(config.out / "ledger.jsonl")
    began = time.monotonic()
    kill_at, note_at, kills, losses = began + config.kill_every, began, 0, []
    while (now := time.monotonic()) < began + 3600 * config.hours:
        metrics = ours.step()
        ledger.append(ours.entry)
        losses.append(metrics["meta_loss"])
        if now >= kill_at:
            kill_at += config.kill_every
            victim = chance.choice(hosts)
            try:
                os.kill(ray.get(victim.actor.pid.remote(), timeout=20), signal.SIGKILL)
                kills += 1
            except (ray.exceptions.RayError, ProcessLookupError):
                pass  # it is starting still
        if now >= note_at:
            note_at += config.note_every
            pids = []
            for host in hosts:
                try:
                    pids.append(ray.get(host.actor.pid.remote(), timeout=20))
                except ray.exceptions.RayError:
                    continue
            yield {
                "kind": "course",
                "seconds": now - began,
                "step": ours.num_steps,
                "meta_loss": sum(losses) / len(losses),
                "driver_mebibytes": resident(os.getpid()) / 2**20,
                "worker_mebibytes": [resident(pid) / 2**20 for pid in pids],
                "kills": kills,
                "lost": metrics["pool/lost"],
                "replayed": metrics["pool/replayed"],
            }
            losses = []
    steps, seconds = ours.num_steps, time.monotonic() - began
    ours.pool.close()
    theirs = trainer(config, on_ray=False)
    for _ in range(steps):
        theirs.step()
    same = all(torch.equal(value, theta_of(theirs.module)[name]) for name, value in theta_of(ours.module).items())
    found = audit(ledger.path)
    yield {
        "kind": "end",
        "seconds": seconds,
        "kills": kills,
        "same_theta_as_undisturbed": same,
        "steps": found.steps,
        "used": found.used,
        "missing": found.missing,
        "events": found.events,
    }


def main(config: Config) -> None:
    """Run, write as it goes, show."""
    config.out.mkdir(parents=True, exist_ok=True)
    rows = []

    def told() -> Iterator[dict[str, Any]]:
        for row in run(config):
            rows.append(row)
            yield row

    write("soak", config, told(), config.out)
    if config.record:
        write("soak", config, rows, RESULTS)
    course = [row for row in rows if row["kind"] == "course"]
    for row in (course[len(course) // 10], course[-1], rows[-1]):
        Console(width=160).print(row)


if __name__ == "__main__":
    main(tyro.cli(Config))

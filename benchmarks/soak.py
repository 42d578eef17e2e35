"""Does a long run on Ray stay well while its workers die? (two hours, a worker killed every minute)

    python -m benchmarks.soak --record

Meta-trains an MLP rule by PES with Ray's workers and kills one of their processes at a random moment of every minute.
A twin whose workers live in this process makes every outer step as well, undisturbed. Every half minute a row notes the
memory of driver and workers, the meta-loss of both, how many hosts were lost, and after how many steps the two differed
in any bit of theta.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
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
        rest: seconds between outer steps, which leave the machine to others.
        num_tasks: tasks of a worker.
        seed: of everything, and of who dies.
        out: folder of ledger and rows.
        record: keep the rows in benchmarks/results.
    """

    hours: float = 2.0
    workers: int = 2
    kill_every: float = 60.0
    note_every: float = 30.0
    rest: float = 0.5
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


class Killer(threading.Thread):
    """Kills a random process once in every interval, at a random moment of it.

    Whoever is asked for its process answers only between estimates, so the processes are told beforehand.

    Arguments:
        interval: seconds.
        chance: decides who and when.
    """

    def __init__(self, interval: float, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self.interval, self.chance = interval, chance
        self.pids: list[int] = []
        self.estimating = False
        self.kills, self.at_work, self.ended = 0, 0, threading.Event()

    def run(self) -> None:
        """Until `ended`."""
        began, turn = time.monotonic(), 0
        while not self.ended.wait(began + self.interval * (turn + self.chance.random()) - time.monotonic()):
            turn += 1
            pids = [pid for pid in self.pids if resident(pid)]
            if pids:  # or all are starting
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.chance.choice(pids), signal.SIGKILL)
                    self.kills += 1
                    self.at_work += self.estimating


def process_of(host: Any) -> int | None:
    """Number of the process that a host of Ray lives in; None while it is starting or dead."""
    try:
        pid: int = ray.get(host.actor.pid.remote(), timeout=20)
    except ray.exceptions.RayError:
        return None
    return pid


def run(config: Config) -> Iterator[dict[str, Any]]:
    """A row every half minute, and one at the end."""
    torch.set_num_threads(1)
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "ledger.jsonl").unlink(missing_ok=True)
    ledger = Ledger(config.out / "ledger.jsonl")
    disturbed, twin = trainer(config, on_ray=True), trainer(config, on_ray=False)
    assert isinstance(disturbed.pool, RayPool) and isinstance(disturbed.pool.backend, RayBackend)
    hosts = disturbed.pool.backend.hosts
    killer = Killer(config.kill_every, random.Random(config.seed))
    killer.start()
    began = time.monotonic()
    note_at, losses, differing = began, [], 0
    while (now := time.monotonic()) < began + 3600 * config.hours:
        killer.estimating = True
        metrics = disturbed.step()
        killer.estimating = False
        if disturbed.entry["events"] or not killer.pids:  # processes that started anew
            killer.pids = [pid for pid in map(process_of, hosts) if pid is not None]
        undisturbed = twin.step()
        ledger.append(disturbed.entry)
        losses.append((metrics["meta_loss"], undisturbed["meta_loss"]))
        theirs = theta_of(twin.module)
        differing += not all(torch.equal(value, theirs[name]) for name, value in theta_of(disturbed.module).items())
        if now >= note_at:
            note_at += config.note_every
            loss, undisturbed_loss = (sum(column) / len(column) for column in zip(*losses, strict=True))
            losses = []
            yield {
                "kind": "course",
                "seconds": now - began,
                "step": disturbed.num_steps,
                "meta_loss": loss,
                "undisturbed_meta_loss": undisturbed_loss,
                "steps_of_other_theta": differing,
                "driver_mebibytes": resident(os.getpid()) / 2**20,
                "worker_mebibytes": [size / 2**20 for pid in killer.pids if (size := resident(pid))],
                "kills": killer.kills,
                "kills_at_work": killer.at_work,
                "lost": metrics["pool/lost"],
                "replayed": metrics["pool/replayed"],
            }
        time.sleep(config.rest)
    killer.ended.set()
    disturbed.pool.close()
    found = audit(ledger.path)
    yield {
        "kind": "end",
        "seconds": time.monotonic() - began,
        "kills": killer.kills,
        "kills_at_work": killer.at_work,
        "steps_of_other_theta": differing,
        "steps": found.steps,
        "used": found.used,
        "missing": found.missing,
        "events": found.events,
    }


def main(config: Config) -> None:
    """Run, write as it goes, show."""
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

"""What do Ray's workers cost and bring, and how far would they carry?

    python -m benchmarks.scaling --record

Four kinds of rows. `throughput`: outer steps of one and two workers in Ray's processes beside one in this process, the
same estimates (PES, MLP rule, 64-32-10 perceptrons), as long as a second each. `pieces`: what the driver spends on a
worker in every step, measured by itself: bytes and seconds to send theta, receive a gradient, average, call. `driver`:
steps of a simulated pool of many workers with delays and deaths, whose estimates cost nothing: seconds of the driver.
`model`: the step of a cluster of n workers put together from these pieces, under the assumptions below.
"""

from __future__ import annotations

import pickle
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Generator

from benchmarks.estimates import inner_steps
from benchmarks.record import keep, readable
from l2o.distributed import LocalPool, WorkerPool
from l2o.distributed.elastic import ElasticPool
from l2o.distributed.hosts import Residents
from l2o.distributed.ray_pool import RayPool
from l2o.distributed.simulated import SimulatedBackend
from l2o.estimators import PES, Problems, Truncation
from l2o.estimators.base import GradientEstimator, MetaGradient, mean_gradient
from l2o.rules import MLPRule
from l2o.tasks import MLPFamily
from l2o.training.meta_trainer import theta_of
from l2o.types import Theta

ASSUMPTIONS = (
    "every worker has a core of its own as fast as this machine's and waits for all others (no quorum); estimates take "
    "equally long; the driver sends, receives and averages one worker after the other, on one core; the network is not "
    "the limit (bytes over a second are told); snapshots are spread evenly over steps"
)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        seconds: length of an estimate that the window is chosen for.
        num_tasks: tasks of a worker.
        steps: outer steps of a round.
        rounds: rounds of every pool, in turns.
        simulated: workers of the simulated pools.
        simulated_steps: their outer steps.
        clusters: workers to reckon with.
        out: folder of the rows.
        record: keep the rows in benchmarks/results.
    """

    seconds: float = 1.0
    num_tasks: int = 16
    steps: int = 5
    rounds: int = 5
    simulated: tuple[int, ...] = (16, 64, 256, 1024)
    simulated_steps: int = 200
    clusters: tuple[int, ...] = (10, 100, 1000)
    out: Path = Path("runs/scaling")
    record: bool = False


def problem(config: Config, window: int) -> tuple[GradientEstimator, Theta]:
    """PES for the MLP rule on a window."""
    torch.manual_seed(0)
    rule = MLPRule()
    truncation = Truncation(window=window, horizon=1000 * window)
    return PES(Problems(rule, MLPFamily(), config.num_tasks, truncation=truncation, order="first")), theta_of(rule)


def fitting_window(config: Config) -> int:
    """The inner steps that take so many seconds."""
    estimator, theta = problem(config, 20)
    pool = LocalPool(estimator, theta)
    pool.estimate(theta)
    seconds = min(_seconds(lambda: pool.estimate(theta)) for _ in range(3))
    return max(1, round(20 * config.seconds / seconds))


def throughput(config: Config, window: int) -> Iterator[dict[str, Any]]:
    """One row a pool."""
    estimator, theta = problem(config, window)
    pools: dict[str, tuple[WorkerPool, int]] = {
        "local, 1 worker": (LocalPool(estimator, theta), 1),
        "Ray, 1 worker": (RayPool(estimator, theta, 1), 1),
        "Ray, 2 workers": (RayPool(estimator, theta, 2), 2),
    }
    for pool, _ in pools.values():
        pool.estimate(theta)
    times: dict[str, list[float]] = {name: [] for name in pools}
    for _ in range(config.rounds):
        for name, (pool, _) in pools.items():
            for _ in range(config.steps):
                times[name].append(
                    _seconds(lambda pool=pool: mean_gradient([e.gradient for e in pool.estimate(theta)]))
                )
    for pool, _ in pools.values():
        pool.close()
    seconds = {name: median(of) for name, of in times.items()}
    for name, (_, workers) in pools.items():
        rate = workers / seconds[name]
        yield {
            "kind": "throughput",
            "pool": name,
            "step_seconds": seconds[name],
            "estimates_per_second": rate,
            "inner_steps_per_second": rate * inner_steps("pes", config.num_tasks, window),
            "times_one_of_ray": rate * seconds["Ray, 1 worker"],
            "over_local": seconds[name] / seconds["local, 1 worker"] - 1.0,
            "window": window,
        }


def pieces(config: Config, window: int) -> dict[str, Any]:
    """What a worker costs the driver in a step."""
    estimator, theta = problem(config, 20)
    pool = LocalPool(estimator, theta)
    (estimate,) = pool.estimate(theta)
    gradient, state = estimate.gradient, pool.state_dict()["workers"][0]
    idle = RayPool(Nothing(), theta, 8)
    idle.estimate(theta)
    call = median(_seconds(lambda: idle.estimate(theta)) for _ in range(50)) / 8
    idle.close()
    many = [gradient] * 100
    return {
        "kind": "pieces",
        "theta_bytes": len(pickle.dumps(theta)),
        "gradient_bytes": len(pickle.dumps(gradient)),
        "state_bytes": len(pickle.dumps(state)),
        "call_seconds": call,
        "average_seconds": median(_seconds(lambda: mean_gradient(many)) for _ in range(20)) / 100,
        "estimate_seconds": config.seconds,
    }


class Nothing(GradientEstimator):
    """An estimate that costs nothing: a gradient of the size of theta."""

    def init(self, theta: Theta, generator: Generator) -> torch.Tensor:
        return torch.zeros(())

    def estimate(self, theta: Theta, state: Any, generator: Generator) -> tuple[MetaGradient, Any]:
        return MetaGradient({name: value.clone() for name, value in theta.items()}, torch.zeros(()), {}), state + 1


def driver(config: Config, workers: int) -> dict[str, Any]:
    """Steps of a simulated pool: estimates of 1 to 2 seconds, a death of every host in 30 minutes, back after 10 s."""
    _, theta = problem(config, 1)

    def delay(generator: random.Random) -> float:
        return generator.uniform(1.0, 2.0)

    backend = SimulatedBackend(
        lambda: Residents(Nothing(), theta), delay, lambda g: g.expovariate(1 / 1800), lambda g: 10.0
    )
    pool = ElasticPool(backend, workers)
    began, clock, used = time.perf_counter(), backend.now(), set()
    for _ in range(config.simulated_steps):
        found = pool.estimate(theta)
        mean_gradient([estimate.gradient for estimate in found])
        used |= {(estimate.worker, estimate.number) for estimate in found}
    assert used == {(i, k + 1) for i in range(workers) for k in range(config.simulated_steps)}
    return {
        "kind": "driver",
        "workers": workers,
        "driver_seconds": (time.perf_counter() - began) / config.simulated_steps,
        "step_seconds": (backend.now() - clock) / config.simulated_steps,
        "lost": pool.counts["lost"],
        "moved": pool.counts["moved"],
        "replayed": pool.counts["replayed"],
    }


def model(config: Config, measured: dict[str, Any], bookkeeping: float, workers: int) -> dict[str, Any]:
    """The step of a cluster, put together from what was measured."""
    each = measured["call_seconds"] + measured["average_seconds"] + bookkeeping
    step = measured["estimate_seconds"] + workers * each
    moved = workers * (measured["theta_bytes"] + measured["gradient_bytes"] + measured["state_bytes"] / 10)
    return {
        "kind": "model",
        "workers": workers,
        "step_seconds": step,
        "efficiency": measured["estimate_seconds"] / step,
        "bytes_per_step": moved,
        "estimate_for_90_percent": 9 * workers * each,
        "assumptions": ASSUMPTIONS,
    }


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def run(config: Config) -> Iterator[dict[str, Any]]:
    """All rows."""
    torch.set_num_threads(1)
    window = fitting_window(config)
    yield from throughput(config, window)
    measured = pieces(config, window)
    yield measured
    simulated = [driver(config, workers) for workers in config.simulated]
    yield from simulated
    # of the largest pool, whose bookkeeping by worker is the dearest; the average is in it as well as in the pieces
    bookkeeping = simulated[-1]["driver_seconds"] / simulated[-1]["workers"]
    for workers in config.clusters:
        yield model(config, measured, bookkeeping, workers)


def main(config: Config) -> None:
    """Measure, write, show."""
    rows = list(run(config))
    keep("scaling", config, rows)
    for kind in ("throughput", "pieces", "driver", "model"):
        of = [row for row in rows if row["kind"] == kind]
        names = [name for name in of[0] if name not in ("kind", "assumptions")]
        shown = Table(*names, title=kind, title_justify="left")
        for row in of:
            shown.add_row(*(readable(row[name]) if isinstance(row[name], float) else str(row[name]) for name in names))
        Console(width=160).print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

"""A population in the batch beside Ray Tune's population-based training: the same agents, rates and exchanges.

    python -m benchmarks.agents_pbt --record

Families of 8 members on CartPole with random physics, one world a family, learning rates from .0003 to .06: as they
are, exchanged in the batch (`Population`), and by `ray.tune.schedulers.PopulationBasedTraining`, whose every member
is a process with a checkpoint before each exchange. All begin with the same policies in the same worlds, exchange the
worst quarter every three iterations, and multiply or divide a copied rate by 1.4. Scores are mean episode returns
over the last quarter of the iterations and all members; seconds are of the clock, Ray's start not counted, that of
its members counted, as it comes with every run.
"""

from __future__ import annotations

import os
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.agents_tuning import FIXED, RATES, cart_poles, rates_of
from benchmarks.record import RESULTS, markdown, read, write
from l2o.agents.population import Population
from l2o.types import seeded

EVERY, FACTOR = 3, 1.4


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        families: worlds, by their seeds.
        num_members: of each.
        num_iterations: of 512 steps and 4 updates.
        cpus: that Ray may use.
        record: keep the rows in benchmarks/results.
    """

    families: tuple[int, ...] = (0, 1)
    num_members: int = 8
    num_iterations: int = 20
    cpus: int = 2
    record: bool = False


def in_the_batch(config: Config, family: int, every: int) -> list[list[float]]:
    """Returns by iteration and member."""
    lifetimes, theta = cart_poles()
    group = Population(lifetimes, config.num_members, fixed=FIXED, every=every, factor=FACTOR)
    values = {"learning_rate": rates_of(config.num_members)}
    report, _ = group.run(theta, 1, config.num_iterations, values, seeded(family))
    returns: list[list[float]] = report.episode_return.tolist()
    return returns


def member(settings: dict[str, Any]) -> None:
    """One process of Tune's: goes on from its checkpoint, or another one's."""
    from ray import tune

    torch.set_num_threads(1)
    lifetimes, theta = cart_poles()
    lives, done = lifetimes.start(1, settings["num_iterations"], seeded(settings["family"])), 0
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            lives, done = torch.load(Path(folder) / "lives.pt", weights_only=False)
    hyper = FIXED._replace(learning_rate=settings["learning_rate"])
    own = zlib.crc32(f"{tune.get_context().get_trial_id()} {settings['family']} {done}".encode())
    generator = seeded(own)
    for i in range(done, settings["num_iterations"]):
        with torch.no_grad():
            lives, report = lifetimes.advance(theta, lives, hyper, generator)
        told = {"score": float(report.episode_return), "iteration": i}
        if (i + 1) % EVERY:
            tune.report(told)
            continue
        with tempfile.TemporaryDirectory() as folder:
            torch.save((lives, i + 1), Path(folder) / "lives.pt")
            tune.report(told, checkpoint=tune.Checkpoint.from_directory(folder))


def by_ray_tune(config: Config, family: int) -> list[list[float]]:
    """Returns by iteration and member, as far as members reported them."""
    from ray import tune
    from ray.tune.schedulers import PopulationBasedTraining

    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        metric="score",
        mode="max",
        perturbation_interval=EVERY,
        quantile_fraction=0.25,
        resample_probability=0.0,
        perturbation_factors=(FACTOR, 1.0 / FACTOR),
        hyperparam_mutations={"learning_rate": tune.loguniform(*RATES)},
        synch=True,
    )
    space = {
        "learning_rate": tune.grid_search(rates_of(config.num_members).tolist()),
        "num_iterations": config.num_iterations,
        "family": family,
    }
    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            tune.with_resources(member, {"cpu": config.cpus / config.num_members}),
            param_space=space,
            tune_config=tune.TuneConfig(scheduler=scheduler, reuse_actors=True),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        results = tuner.fit()
        frames = [result.metrics_dataframe for result in results]
    if any(frame is None for frame in frames):
        raise RuntimeError(f"members of Ray Tune's reported nothing: {results.errors}")
    last = [{int(i): x for i, x in zip(f["iteration"], f["score"], strict=True)} for f in frames if f is not None]
    return [[of[i] for of in last if i in of] for i in range(config.num_iterations)]


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a family and method."""
    import ray

    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    ray.init(num_cpus=config.cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    for family in config.families:
        for name in ("fixed", "in the batch", "Ray Tune"):
            began = time.perf_counter()
            if name == "Ray Tune":
                returns = by_ray_tune(config, family)
            else:
                returns = in_the_batch(config, family, EVERY if name == "in the batch" else 10**9)
            late = [x for one in returns[-max(1, config.num_iterations // 4) :] for x in one]
            row = {"family": family, "method": name, "final": sum(late) / len(late)}
            row |= {"seconds": time.perf_counter() - began, "curve": [sum(one) / len(one) for one in returns]}
            print(f"family {family} {name:14} {row['final']:.1f} {row['seconds']:.1f} s", flush=True)
            yield row
    ray.shutdown()


def table() -> str:
    """The recorded rows in Markdown."""
    rows = read("agents_pbt")
    lines = []
    for name in dict.fromkeys(row["method"] for row in rows):
        final, seconds = ([row[key] for row in rows if row["method"] == name] for key in ("final", "seconds"))
        told = f"{sum(final) / len(final):.0f} ({', '.join(f'{x:.0f}' for x in final)})"
        lines.append([name, told, f"{sum(seconds) / len(seconds):.3g}"])
    config = rows[0]["config"]
    caption = (
        f"CartPole, {len(config['families'])} families of {config['num_members']} members, {config['num_iterations']} "
        f"iterations: mean episode return over the last quarter, mean and by family; seconds of a machine that did "
        f"other work too. {rows[0]['machine']}, commit {rows[0]['commit']}."
    )
    return markdown(["rates", "return at the end", "seconds a family"], lines, caption)


def main(config: Config) -> None:
    """Train all, and write the rows where they are wanted."""
    torch.set_num_threads(1)
    rows = list(run(config))
    if config.record:
        print(write("agents_pbt", config, rows, RESULTS, by=("family", "method")))


if __name__ == "__main__":
    main(tyro.cli(Config))

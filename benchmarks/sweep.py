"""An example: search the hyperparameters of meta-training with Ray Tune, by ASHA or by population-based training.

    pip install 'l2o[sweep]'
    python -m benchmarks.sweep --scheduler asha --samples 8
    python -m benchmarks.sweep --scheduler pbt --samples 4

Every trial meta-trains an MLP rule by PES and reports its held-out score after each round. ASHA stops trials that are
worse than others were at the same step; PBT lets the worst go on from the checkpoints of the best with other rates
(`l2o population` does the same without Tune).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from l2o.training.checkpoint import load_tree, save_tree
from l2o.training.config import MetaTrainConfig
from l2o.training.meta_train_command import Evaluator
from l2o.training.population import Member


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        scheduler: asha or pbt.
        samples: trials.
        rounds: reports of a trial that is not stopped.
        steps: outer steps of a round.
        tasks: suite of tasks, see `l2o info`.
        concurrent: trials at once; each takes a CPU.
        address: of a Ray cluster; None starts Ray on this machine.
        out: folder of the trials.
    """

    scheduler: Literal["asha", "pbt"] = "asha"
    samples: int = 8
    rounds: int = 8
    steps: int = 25
    tasks: str = "digits-mlp"
    concurrent: int = 2
    address: str | None = None
    out: Path = Path("runs/sweep")


def trial(config: Config) -> Callable[[dict[str, float]], None]:
    """What a trial does; Tune calls it in a process of its own with the values to try."""

    def run(values: dict[str, float]) -> None:
        from ray import tune

        torch.set_num_threads(1)
        made = MetaTrainConfig(
            rule="mlp",
            tasks=config.tasks,
            estimator="pes",
            num_tasks=8,
            std=values["std"],
            lr=values["lr"],
            steps=config.rounds * config.steps,
            schedule="constant",
            threads=1,
        )
        suite = made.suite()
        member, evaluator = Member(made.build(suite)), Evaluator(suite)
        found = tune.get_checkpoint()
        if found is not None:  # of this trial, or under PBT of a better one
            with found.as_directory() as folder:
                member.load_state_dict(load_tree(Path(folder) / "state.safetensors"))
            member.set_hyperparameters({"lr": values["lr"], "max_grad_norm": member.trainer.max_grad_norm})
        while member.trainer.num_steps < made.steps:
            for _ in range(config.steps):
                member.trainer.step()
            member.score = evaluator.scores(member.trainer.module)[0]["score"]
            with tempfile.TemporaryDirectory() as folder:
                save_tree(member.state_dict(), Path(folder) / "state.safetensors")
                told = {"score": member.score, "outer_steps": member.trainer.num_steps}
                tune.report(told, checkpoint=tune.Checkpoint.from_directory(folder))

    return run


def sweep(config: Config) -> Any:
    """Tune's grid of results."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining

    if not ray.is_initialized():
        ray.init(config.address or "local", log_to_driver=False, include_dashboard=False)
    if config.scheduler == "asha":
        scheduler: Any = ASHAScheduler(time_attr="training_iteration", max_t=config.rounds, grace_period=2)
    else:
        explored = {"lr": tune.loguniform(1e-4, 1e-1)}  # std belongs to the estimator's state: it stays
        scheduler = PopulationBasedTraining(
            "training_iteration", perturbation_interval=2, hyperparam_mutations=explored
        )
    tuner = tune.Tuner(
        tune.with_resources(trial(config), {"cpu": 1}),
        param_space={"lr": tune.loguniform(1e-4, 1e-1), "std": tune.loguniform(3e-3, 3e-2)},
        tune_config=tune.TuneConfig(
            metric="score",
            mode="min",
            scheduler=scheduler,
            num_samples=config.samples,
            max_concurrent_trials=config.concurrent,
        ),
        run_config=tune.RunConfig(name=config.scheduler, storage_path=str(config.out.resolve()), verbose=0),
    )
    return tuner.fit()


def main(config: Config) -> None:
    """Search, show, and keep what was found."""
    results = sweep(config)
    shown = Table("lr", "std", "outer steps", "held-out score", title=f"{config.scheduler}, {config.samples} trials")
    rows = [
        {**result.config, "score": result.metrics["score"], "steps": result.metrics["outer_steps"]}
        for result in results
        if result.error is None and "score" in (result.metrics or {})
    ]
    for row in sorted(rows, key=lambda row: row["score"]):
        shown.add_row(f"{row['lr']:.2e}", f"{row['std']:.2e}", str(row["steps"]), f"{row['score']:.4f}")
    Console().print(shown)
    (config.out / f"{config.scheduler}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main(tyro.cli(Config))

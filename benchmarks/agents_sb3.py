"""Is the optimizer that was meta-trained on lives of PPO agents of use inside Stable-Baselines3?

    python -m benchmarks.agents_sb3 --record

Stable-Baselines3's own PPO, environments of Gymnasium as they come, the optimizer by `policy_kwargs`. All else is as it
was where the optimizer was meta-trained, for all contestants: discount .98, value weight .005, a hidden layer of 32, an
iteration of 512 steps and 4 updates on all of them. Adam at that library's rate (.0003), and Adam at the best of eight
rates, each constant and with a linear decay to zero, chosen by `tune_seeds` other runs of the same environment; the
learned optimizer untuned. The score is the mean return of `evaluate_policy`'s episodes at the end of training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import tyro

from benchmarks.interval import half_width
from benchmarks.record import RESULTS, commits, markdown, read, write
from l2o import LearnedOptimizer

RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3e-2, 6e-2, 0.12)
FIRST_TUNE_SEED = 1000


@dataclass(frozen=True)
class Setting:
    """An environment of Gymnasium, and how much is done in it.

    Arguments:
        iterations: of 512 steps and 4 updates.
        options: of `PPO`.
    """

    environment: str
    iterations: int = 20
    options: dict[str, Any] = field(default_factory=lambda: {"gamma": 0.98, "vf_coef": 0.005})


SETTINGS = {
    "CartPole-v1": Setting("CartPole-v1"),
    "Acrobot-v1": Setting("Acrobot-v1", 40),
}


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        settings: which of them; all if empty.
        contestants: which of them; all if empty. The rows of the others stay.
        rule: the learned optimizer.
        seeds: runs that are reported.
        tune_seeds: runs of each rate that Adam's is chosen by.
        episodes: of an evaluation.
        record: keep the rows in benchmarks/results.
    """

    settings: tuple[str, ...] = ()
    contestants: tuple[Literal["Adam, .0003", "Adam, tuned", "l2o, ppo"], ...] = ()
    rule: str = "ppo"
    seeds: int = 10
    tune_seeds: int = 3
    episodes: int = 20
    record: bool = False


def decaying(rate: float) -> Callable[[float], float]:
    """A schedule of Stable-Baselines3: of what remains of the run, from 1 to 0."""
    return lambda remains: rate * remains


def final_return(
    setting: Setting, optimizer: type, kwargs: dict[str, Any], rate: Any, seed: int, episodes: int
) -> float:
    """Of one run."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    environment = make_vec_env(setting.environment, n_envs=16, seed=seed)
    policy = {"net_arch": [32], "optimizer_class": optimizer, "optimizer_kwargs": kwargs}
    agent = PPO(
        "MlpPolicy",
        environment,
        rate,
        n_steps=32,
        batch_size=512,
        n_epochs=4,
        seed=seed,
        policy_kwargs=policy,
        device="cpu",
        **setting.options,
    )
    agent.learn(512 * setting.iterations)
    judge = make_vec_env(setting.environment, n_envs=1, seed=seed + 10_000)
    mean = evaluate_policy(agent, judge, episodes)[0]
    assert isinstance(mean, float)
    environment.close()
    judge.close()
    return mean


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row an environment and contestant."""
    for name in config.settings or SETTINGS:
        setting = SETTINGS[name]

        def adam(rate: Any, seed: int, setting: Setting = setting) -> float:
            return final_return(setting, torch.optim.Adam, {"eps": 1e-5}, rate, seed, config.episodes)

        def learned(rate: Any, seed: int, setting: Setting = setting) -> float:
            kwargs = {"rule": config.rule, "total_steps": 4 * setting.iterations}
            return final_return(setting, LearnedOptimizer, kwargs, rate, seed, config.episodes)

        for contestant, train in (("Adam, .0003", adam), ("Adam, tuned", adam), ("l2o, ppo", learned)):
            if config.contestants and contestant not in config.contestants:
                continue
            at: Any = 3e-4 if train is adam else 1.0
            if contestant == "Adam, tuned":
                tuning = range(FIRST_TUNE_SEED, FIRST_TUNE_SEED + config.tune_seeds)
                swept = {
                    (rate, decays): sum(adam(decaying(rate) if decays else rate, seed) for seed in tuning) / len(tuning)
                    for rate in RATES
                    for decays in (False, True)
                }
                rate, decays = max(swept, key=lambda one: swept[one])
                at = decaying(rate) if decays else rate
            began = time.process_time()
            returns = [train(at, seed) for seed in range(config.seeds)]
            row: dict[str, Any] = {"environment": name, "contestant": contestant, "returns": returns}
            row |= {"iterations": setting.iterations, "mean": sum(returns) / len(returns)}
            row["cpu_seconds"] = time.process_time() - began
            if contestant == "Adam, tuned":
                row |= {"rate": rate, "decays": decays, "swept": [[*one, mean] for one, mean in swept.items()]}
            print(f"{name} {contestant}: {row['mean']:.1f}", flush=True)
            yield row


def table() -> str:
    """The recorded rows in Markdown."""
    rows = sorted(read("agents_sb3"), key=lambda row: list(SETTINGS).index(row["environment"]))
    ours = {row["environment"]: torch.tensor(row["returns"]) for row in rows if row["contestant"].startswith("l2o")}
    lines = []
    for row in rows:
        returns = torch.tensor(row["returns"])
        more = ours[row["environment"]] - returns
        told = "" if row["contestant"].startswith("l2o") else plus_minus(more, "+.1f")
        at = f" ({row['rate']:g}{', decaying' if row['decays'] else ''})" if "rate" in row else ""
        lines.append([row["environment"], row["contestant"] + at, plus_minus(returns, ".1f"), told])
    iterations = ", ".join(f"{name} {one.iterations}" for name, one in SETTINGS.items())
    config = rows[0]["config"]
    caption = (
        f"Mean return of {config['episodes']} episodes at the end, mean over {config['seeds']} seeds and the "
        "half-width of its 95% interval (t). Stable-Baselines3's PPO with the settings of the meta-training for all: "
        "discount .98, value weight .005, one hidden layer of 32, 16 environments, 512 steps and 4 full-batch updates "
        f"an iteration; iterations: {iterations}. {rows[0]['machine']}, commits {commits(rows)}."
    )
    return markdown(["environment", "optimizer", "return", "l2o: more by"], lines, caption)


def plus_minus(x: torch.Tensor, form: str) -> str:
    """Mean and half-width."""
    return f"{float(x.mean()):{form}} ± {half_width(x):.1f}"


def main(config: Config) -> None:
    """Train all, and write the rows where they are wanted."""
    torch.set_num_threads(1)
    rows = list(run(config))
    if config.record:
        print(write("agents_sb3", config, rows, RESULTS, by=("environment", "contestant")))


if __name__ == "__main__":
    main(tyro.cli(Config))

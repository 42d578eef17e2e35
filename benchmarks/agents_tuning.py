"""Do agents that tune themselves reach what the best setting would have given?

    python -m benchmarks.agents_tuning --part kalman
    python -m benchmarks.agents_tuning --part population
    python -m benchmarks.agents_tuning --part gradients
    python -m benchmarks.agents_tuning --part bandit

`kalman` tracks a random walk through noise by gradient steps; the best step is the Kalman filter's gain, known in
closed form. `population` and `gradients` train agents on CartPole, each family in physics of its own, from the same 16
learning rates: fixed, exchanged in the batch, or moved by meta-gradients. `bandit` lets PPO's clip range be chosen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from benchmarks.record import RESULTS, markdown, read, readable, write
from l2o.agents.environments import CartPole
from l2o.agents.hyper_bandit import HyperBandit
from l2o.agents.lifetime import Lifetimes
from l2o.agents.losses import Hyperparameters
from l2o.agents.policy import ActorCritic
from l2o.agents.population import Population
from l2o.agents.ppo import PPO
from l2o.agents.tuning import KNOBS, Knob, SelfTuning, Tuner
from l2o.rules import Adam
from l2o.types import seeded, tree_map

FIXED = Hyperparameters(discount=0.98, value=0.005)
RATES = (3e-4, 6e-2)
STEP = Knob(1e-3, 0.999, "odds")
CLIPS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        part: see above; the rows of the others stay.
        seeds: one run each.
        num_lanes, num_steps: of tracking.
        num_families, num_members, num_iterations: of agents; an iteration is 512 environment steps and 4 updates.
        record: keep the rows in benchmarks/results.
    """

    part: Literal["kalman", "population", "gradients", "bandit"] = "kalman"
    seeds: tuple[int, ...] = (0, 1, 2)
    num_lanes: int = 256
    num_steps: int = 16_000
    num_families: int = 12
    num_members: int = 16
    num_iterations: int = 20
    record: bool = False


def kalman(config: Config, seed: int) -> Iterator[dict[str, Any]]:
    """One row a ratio of noises and kind of tuner; the ratio is of squared errors over the last half."""
    kinds = {
        "clipped": Tuner({"step": STEP}, rate=0.005, clip=2.0, memory=0.999),
        "unclipped, fast": Tuner({"step": STEP}, rate=0.05, clip=math.inf, memory=0.999),
    }
    for q in (0.01, 1.0, 10.0):
        gain = _kalman_gain(q)
        fixed = {str(a): _steady_error(a, q) / _steady_error(gain, q) for a in (0.003, 0.01, 0.03, 0.1, 0.3, 0.9)}
        for kind, tuner in kinds.items():
            ratio, step = _tracked(tuner, q, config, seed)
            yield {
                "method": kind,
                "noise_ratio": q,
                "best_step": gain,
                "median_step": float(step.median()),
                "error_ratio": float(ratio.mean()),
                "error_ratio_error": float(ratio.std() / len(ratio) ** 0.5),
                "worst_lane": float(ratio.max()),
                "lanes_above_2": float((ratio > 2.0).double().mean()),
                "fixed": fixed,
            }


def _tracked(tuner: Tuner, q: float, config: Config, seed: int) -> tuple[Tensor, Tensor]:
    """Squared errors over the best possible, by lane, and the steps at the end."""
    generator, lanes = seeded(seed), config.num_lanes
    gain = _kalman_gain(q)
    w, hidden, error = (torch.zeros(lanes, dtype=torch.float64) for _ in range(3))
    state = tuner.init({"step": torch.full((lanes,), 0.5 if gain < 0.3 else 0.05, dtype=torch.float64)})
    before = w
    last = w
    for i in range(config.num_steps):
        noise = torch.randn(2, lanes, generator=generator, dtype=torch.float64)
        hidden = hidden + math.sqrt(q) * noise[0]
        seen = hidden + noise[1]
        # d (w - seen)^2 / 2 of the last step w = before + a (last - before), by the logarithm of a's odds
        step = tuner.values(state.raw)["step"]
        state = tuner.step(state, {"step": (w - seen) * step * (1.0 - step) * (last - before)})
        step = tuner.values(state.raw)["step"]
        before, last = w, seen
        w = w + step * (seen - w)
        if i >= config.num_steps // 2:
            error = error + (w - hidden).square() / (config.num_steps - config.num_steps // 2)
    return error / _steady_error(gain, q), tuner.values(state.raw)["step"]


def _kalman_gain(q: float) -> float:
    """Of a random walk of variance q seen through noise of variance 1."""
    prior = (q + math.sqrt(q * q + 4.0 * q)) / 2.0
    return prior / (prior + 1.0)


def _steady_error(step: float, q: float) -> float:
    """Mean squared error after an update, of a constant step."""
    return (step**2 + (1.0 - step) ** 2 * q) / (1.0 - (1.0 - step) ** 2)


def cart_poles() -> tuple[Lifetimes, dict[str, Tensor]]:
    """Agents in physics of their own, and the theta of their rule."""
    environment = CartPole(spread=0.4)
    rule = Adam(1.0)
    agents = Lifetimes(environment, ActorCritic.of(environment, hidden=(32,)), rule, PPO(16, 32))
    return agents, {name: p.detach() for name, p in rule.named_parameters()}


def rates_of(num: int) -> Tensor:
    """Learning rates that members begin with, evenly in the logarithm."""
    return torch.logspace(math.log10(RATES[0]), math.log10(RATES[1]), num)


def population(config: Config, seed: int) -> Iterator[dict[str, Any]]:
    """One row a method; scores are mean episode returns over the last quarter."""
    agents, theta = cart_poles()
    for name, every in (("fixed", 10**9), ("population", 3)):
        group = Population(agents, config.num_members, fixed=FIXED, every=every)
        rates = {"learning_rate": rates_of(config.num_members)}
        began = time.process_time()
        report, _ = group.run(theta, config.num_families, config.num_iterations, rates, seeded(seed))
        yield _lived(name, report.episode_return, config.num_members, time.process_time() - began)


def gradients(config: Config, seed: int) -> Iterator[dict[str, Any]]:
    """One row a method: all knobs, or the learning rate alone, by both kinds of judge."""
    agents, theta = cart_poles()
    num = config.num_families * config.num_members
    rates = rates_of(config.num_members).repeat(config.num_families)
    start = {
        "learning_rate": rates,
        "discount": torch.full((num,), 0.98),
        "decay": torch.full((num,), 0.95),
        "entropy": torch.full((num,), 1e-3),
        "value": torch.full((num,), 0.005),
    }
    for name, knobs, target in (
        ("learning rate, return", ("learning_rate",), "return"),
        ("learning rate, bootstrap", ("learning_rate",), "bootstrap"),
        ("all knobs, return", tuple(KNOBS), "return"),
    ):
        tuner = Tuner({knob: KNOBS[knob] for knob in knobs}, rate=0.3, memory=0.8)
        tuning = SelfTuning(agents, tuner, FIXED, target)  # type: ignore[arg-type]
        generator = seeded(seed)
        lives = agents.start(config.num_families, config.num_iterations, generator)
        lives = tree_map(lambda x: x.repeat_interleave(config.num_members, dim=0), lives)
        state, returns = tuner.init({knob: start[knob] for knob in knobs}), []
        began = time.process_time()
        for _ in range(config.num_iterations // 2):
            lives, state, reports = tuning.advance(theta, lives, state, generator)
            returns += [report.episode_return for report in reports]
        row = _lived(name, torch.stack(returns), config.num_members, time.process_time() - began)
        rate = tuner.values(state.raw)["learning_rate"].view(-1, config.num_members).log().mean(dim=0).exp()
        yield row | {"rates_at_the_end": [float(x) for x in rate], "skipped": int(state.skipped)}


def bandit(config: Config, seed: int) -> Iterator[dict[str, Any]]:
    """One row a clip range, fixed, and one for the bandit that chooses among them; learning rate 0.016."""
    agents, theta = cart_poles()
    num = config.num_families * 4
    for clip in (*CLIPS, None):
        generator, chooser = seeded(seed), HyperBandit(len(CLIPS))
        lives, pulls = agents.start(num, config.num_iterations, generator), chooser.init(num)
        last: Tensor | None = None
        before = torch.zeros(num, dtype=torch.int64)
        returns, options = [], torch.tensor(CLIPS)
        began, chances = time.process_time(), seeded(seed + 10**6)
        for _ in range(config.num_iterations):
            option = chooser.choose(pulls, torch.rand(num, len(CLIPS), generator=chances))
            value = options[option] if clip is None else torch.full((num,), clip)
            hyper = FIXED._replace(learning_rate=0.016, clip=value)
            lives, report = agents.advance(theta, lives, hyper, generator)
            if last is not None:  # what the last update brought shows in this iteration
                pulls = chooser.updated(pulls, before, (report.episode_return / last.clamp(min=1.0)).log())
            last, before = report.episode_return, option
            returns.append(report.episode_return)
        name = "bandit" if clip is None else f"clip {clip}"
        yield _lived(name, torch.stack(returns), 1, time.process_time() - began)


def _lived(name: str, returns: Tensor, members: int, seconds: float) -> dict[str, Any]:
    final = returns[-len(returns) // 4 :].mean(dim=0).view(-1, members)
    return {
        "method": name,
        "area": float(returns.mean()),
        "final": float(final.mean()),
        "final_error": float(final.mean(dim=1).std() / len(final) ** 0.5),
        "best_member": float(final.amax(dim=1).mean()),
        "by_member": [float(x) for x in final.mean(dim=0)],
        "cpu_seconds": seconds,
    }


def tracking() -> str:
    """The recorded rows of `kalman` in Markdown."""
    rows = [row for row in read("agents_tuning") if row["part"] == "kalman"]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    heads = ["noise of the walk / of the measurement", "best step", *methods, "steps that stay as they are"]
    lines = []
    for ratio in dict.fromkeys(row["noise_ratio"] for row in rows):
        of = [row for row in rows if row["noise_ratio"] == ratio]
        by_method = ([row["error_ratio"] for row in of if row["method"] == name] for name in methods)
        found = [f"{min(one):.3f} to {max(one):.3f}" for one in by_method]
        fixed = "; ".join(f"{step}: {readable(value)}" for step, value in of[0]["fixed"].items())
        lines.append([f"{ratio:g}", f"{of[0]['best_step']:.3f}", *found, fixed])
    seeds, worst = {row["seed"] for row in rows}, max(row["worst_lane"] for row in rows)
    caption = (
        f"Squared error over the least possible, in the last half of 16,000 steps; {len(seeds)} seeds of 256 lanes, of "
        f"which the worst has {worst:.2f}. {rows[0]['machine']}, commit {rows[0]['commit']}."
    )
    return markdown(heads, lines, caption)


def main(config: Config) -> None:
    """Run one part for all seeds, and write its rows beside the others' where they are wanted."""
    torch.set_num_threads(1)
    made = {"kalman": kalman, "population": population, "gradients": gradients, "bandit": bandit}[config.part]
    rows = []
    for seed in config.seeds:
        for row in made(config, seed):
            rows.append({"part": config.part, "seed": seed, **row})
            told = {key: round(value, 4) for key, value in row.items() if isinstance(value, float)}
            print(f"seed {seed}  {row['method']:26} {told}", flush=True)
    if config.record:
        print(write("agents_tuning", config, rows, RESULTS, by=("part", "seed", "method", "noise_ratio")))


if __name__ == "__main__":
    main(tyro.cli(Config))

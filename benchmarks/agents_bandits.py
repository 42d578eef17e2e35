"""How near does a recurrent agent come to the best possible play of bandits, which it learned from playing?

    python -m benchmarks.agents_bandits

Five arms with means from U[0, 1], ten pulls. The best possible total reward is exact, by dynamic programming over all
counts; the greedy posterior mean, UCB1 (its width tuned), Thompson sampling and chance are simulated. The recurrent
agent sees rewards only; in meta-training it learns from regret, which needs the arms' means, and its critic sees them.
Its settings were chosen by the play of other seeds of meta-training than those of the rows.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from torch import Generator, Tensor

from benchmarks.record import RESULTS, commits, markdown, read, write
from l2o.agents.environments import Bandit, World
from l2o.agents.recurrent import RL2, RL2Gradient, evaluate
from l2o.distributed.pool import LocalPool
from l2o.training.meta_trainer import MetaTrainer, theta_of
from l2o.types import seeded

Index = Callable[[Tensor, Tensor, int, Generator], Tensor]
"""(successes, failures, pull, generator) -> what each arm is chosen by."""


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        num_arms, num_pulls: of a bandit.
        seeds: of meta-trainings.
        num_updates, num_trials, lr, hidden_size, entropy, decay: of each.
        num_test: bandits of a test.
        record: keep the rows in benchmarks/results.
    """

    num_arms: int = 5
    num_pulls: int = 10
    seeds: tuple[int, ...] = (0, 1, 2)
    num_updates: int = 8000
    num_trials: int = 384
    lr: float = 2e-3
    hidden_size: int = 64
    entropy: float = 0.03
    decay: float = 0.95
    num_test: int = 100_000
    record: bool = False


def best_possible(num_arms: int, num_pulls: int) -> float:
    """Expected total reward of Bayes-optimal play, exactly. Arms are alike, so states are sorted counts."""

    @functools.cache
    def worth(arms: tuple[tuple[int, int], ...], left: int) -> float:
        if left == 0:
            return 0.0
        best = 0.0
        for i in {arm: i for i, arm in enumerate(arms)}.values():
            wins, losses = arms[i]
            rate, others = wins / (wins + losses), arms[:i] + arms[i + 1 :]
            won = worth(tuple(sorted((*others, (wins + 1, losses)))), left - 1)
            lost = worth(tuple(sorted((*others, (wins, losses + 1)))), left - 1)
            best = max(best, rate * (1.0 + won) + (1.0 - rate) * lost)
        return best

    return worth(((1, 1),) * num_arms, num_pulls)


def by_hand(config: Config, index: Index, seed: int) -> Tensor:
    """Total rewards of an index rule."""
    generator, num = seeded(seed), config.num_test
    mean = torch.rand(num, config.num_arms, generator=generator)
    wins, losses, total = torch.zeros_like(mean), torch.zeros_like(mean), torch.zeros(num)
    for i in range(config.num_pulls):
        score = index(wins, losses, i, generator) + 1e-6 * torch.rand(mean.shape, generator=generator)
        arm = score.argmax(dim=-1, keepdim=True)
        paid = (torch.rand(num, 1, generator=generator) < mean.gather(-1, arm)).float()
        wins, losses = wins.scatter_add(-1, arm, paid), losses.scatter_add(-1, arm, 1.0 - paid)
        total += paid.squeeze(-1)
    return total


def _greedy(wins: Tensor, losses: Tensor, pull: int, generator: Generator) -> Tensor:
    return (wins + 1.0) / (wins + losses + 2.0)


def _chance(wins: Tensor, losses: Tensor, pull: int, generator: Generator) -> Tensor:
    return torch.rand(wins.shape, generator=generator)


def _thompson(wins: Tensor, losses: Tensor, pull: int, generator: Generator) -> Tensor:
    drawn = [torch._standard_gamma(count + 1.0, generator=generator) for count in (wins, losses)]
    return drawn[0] / (drawn[0] + drawn[1])


def _ucb(width: float) -> Index:
    def index(wins: Tensor, losses: Tensor, pull: int, generator: Generator) -> Tensor:
        count = wins + losses
        bound = wins / count.clamp(min=1.0) + width * (2.0 * math.log(pull + 1) / count.clamp(min=1.0)).sqrt()
        return torch.where(count == 0, 1e6, bound)

    return index


def regret(world: World, action: Tensor) -> Tensor:
    """Of a pull, taken negatively: what is learned from in place of the reward."""
    mean = world["mean"]
    return mean.gather(-1, action.unsqueeze(-1)).squeeze(-1) - mean.amax(dim=-1)


def trained(config: Config, seed: int) -> tuple[RL2, float]:
    """A recurrent agent, and the CPU seconds its meta-training took."""
    bandit = Bandit(config.num_arms, config.num_pulls)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = RL2.of(bandit, config.hidden_size)
    estimator = RL2Gradient(
        model,
        bandit,
        config.num_pulls,
        config.num_trials,
        config.decay,
        entropy=config.entropy,
        anneal=config.num_updates,
        teaching=regret,
    )
    optimizer = torch.optim.Adam(model.parameters(), config.lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, config.num_updates)
    trainer = MetaTrainer(model, LocalPool(estimator, theta_of(model), seed=seed), optimizer, schedule)
    began = time.process_time()
    for i in range(config.num_updates):
        told = trainer.step()
        if i % max(1, config.num_updates // 10) == 0:
            print(f"       update {i}: {-told['meta_loss']:.3f}, {time.process_time() - began:.0f} s", flush=True)
    return model, time.process_time() - began


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a player."""
    if config.num_pulls <= 10:
        yield {"player": "best possible", "reward": best_possible(config.num_arms, config.num_pulls), "error": 0.0}
    width = max((0.1, 0.2, 0.3, 0.5, 1.0), key=lambda w: float(by_hand(config, _ucb(w), 1).mean()))
    players: dict[str, Index] = {
        "greedy posterior mean": _greedy,
        f"UCB1, tuned ({width})": _ucb(width),
        "Thompson": _thompson,
        "chance": _chance,
    }
    for name, index in players.items():
        yield _row(name, by_hand(config, index, 0))
    bandit = Bandit(config.num_arms, config.num_pulls)
    for seed in config.seeds:
        model, seconds = trained(config, seed)
        for greedy in (True, False):
            paid = evaluate(model, bandit, config.num_pulls, config.num_test, seeded(10**6), greedy).sum(dim=0)
            name = "RL^2" if greedy else "RL^2, sampled"
            yield _row(name, paid) | {"seed": seed, "train_cpu_seconds": seconds}


def _row(name: str, total: Tensor) -> dict[str, Any]:
    return {"player": name, "reward": float(total.mean()), "error": float(total.std() / len(total) ** 0.5)}


def table() -> str:
    """The recorded rows in Markdown: total reward of each player."""
    rows = read("agents_bandits")
    lines, sizes = [], dict.fromkeys((row["arms"], row["pulls"]) for row in rows)
    for size in sizes:
        alike = [row for row in rows if (row["arms"], row["pulls"]) == size]
        for name in dict.fromkeys(row["player"] for row in alike):
            found = [row for row in alike if row["player"] == name]
            error = "" if name == "best possible" else f" ± {2.0 * found[0]['error']:.3f}"
            told = ", ".join(f"{row['reward']:.3f}" for row in found)
            minutes = ", ".join(f"{row['train_cpu_seconds'] / 60:.1f}" for row in found if "train_cpu_seconds" in row)
            lines.append([f"{size[0]} arms, {size[1]} pulls", name, told + error, minutes])
    last = rows[-1]
    caption = (
        f"Mean total reward over {last['config']['num_test']:,} fresh bandits, ± two standard errors; RL^2: each "
        f"meta-training by itself, and its CPU minutes. {last['machine']}, commits {commits(rows)}."
    )
    return markdown(["bandits", "player", "total reward", "CPU minutes"], lines, caption)


def main(config: Config) -> None:
    """Let all play, and write the rows where they are wanted."""
    torch.set_num_threads(1)
    rows = []
    for row in run(config):
        print(f"{row['player']:26} {row['reward']:.3f} +- {row['error']:.3f}", flush=True)
        rows.append({"arms": config.num_arms, "pulls": config.num_pulls, **row})
    if config.record:
        print(write("agents_bandits", config, rows, RESULTS, by=("arms", "pulls", "player", "seed")))


if __name__ == "__main__":
    main(tyro.cli(Config))

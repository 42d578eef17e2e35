"""Stable-Baselines3: PPO on CartPole, through `policy_kwargs`; the agent is saved and loaded."""

from __future__ import annotations

import tempfile
from typing import Any

import gymnasium
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.clients.client import Choice

STEPS, BATCH, EPOCHS = 512, 64, 4


class Returns(BaseCallback):
    """Keeps minus the return of every episode that ends."""

    def __init__(self, found: list[float]) -> None:
        super().__init__()
        self.found = found

    def _on_step(self) -> bool:
        self.found += [-float(info["episode"]["r"]) for info in self.locals["infos"] if "episode" in info]
        return True


def train(optimizer: Choice, steps: int, seed: int) -> list[float]:
    """As many steps of CartPole as make about so many of the optimizer; minus the return of each episode."""
    found: list[float] = []
    rounds = max(2, round(steps / (STEPS // BATCH * EPOCHS)))
    of_optimizer = {"optimizer_class": optimizer.cls, "optimizer_kwargs": optimizer.kwargs}
    settings: dict[str, Any] = {"n_steps": STEPS, "batch_size": BATCH, "n_epochs": EPOCHS, "device": "cpu"}
    environment = gymnasium.make("CartPole-v1")
    agent = PPO("MlpPolicy", environment, optimizer.lr, seed=seed, policy_kwargs=of_optimizer, **settings)
    agent.learn(rounds // 2 * STEPS, callback=Returns(found))
    with tempfile.TemporaryDirectory() as folder:
        agent.save(f"{folder}/agent.zip")
        agent = PPO.load(f"{folder}/agent.zip", env=environment)
    agent.learn((rounds - rounds // 2) * STEPS, callback=Returns(found))
    return found

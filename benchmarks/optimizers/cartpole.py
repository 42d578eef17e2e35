"""Reinforcement learning: proximal policy optimisation (Schulman et al., 2017) of a cart with a pole."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from benchmarks.optimizers.problem import Batch, Problem, perceptron
from l2o.types import seeded

LONGEST = 500
"""Steps of an episode at most, as in CartPole-v1."""


class Carts:
    """Many carts at once, the equations and limits of Gym's CartPole-v1; who falls begins anew."""

    def __init__(self, num: int, generator: Generator) -> None:
        self.generator = generator
        self.state, self.age = self._start(num), torch.zeros(num)

    def _start(self, num: int) -> Tensor:
        return 0.1 * torch.rand(num, 4, generator=self.generator) - 0.05

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Push left (0) or right (1). Gives who fell, whose time was over, and each cart's age by then."""
        x, speed, angle, turn = self.state.unbind(-1)
        force = 20.0 * action - 10.0
        pushed = (force + 0.05 * turn.square() * angle.sin()) / 1.1
        turning = (9.8 * angle.sin() - angle.cos() * pushed) / (0.5 * (4 / 3 - 0.1 * angle.cos().square() / 1.1))
        speeding = pushed - 0.05 * turning * angle.cos() / 1.1
        change = torch.stack([speed, speeding, turn, turning], dim=-1)
        self.state, self.age = self.state + 0.02 * change, self.age + 1
        fell = (self.state[:, 0].abs() > 2.4) | (self.state[:, 2].abs() > 12 * math.pi / 180)
        late, age = self.age >= LONGEST, self.age
        ended = fell | late
        self.state = torch.where(ended[:, None], self._start(len(x)), self.state)
        self.age = torch.where(ended, 0.0, self.age)
        return fell, late, age


class ActorCritic(nn.Module):
    """Two perceptrons: logits of both actions, and the value of a state in units of the largest there is."""

    def __init__(self, width: int, largest: float) -> None:
        super().__init__()
        self.largest = largest
        self.actor = perceptron((4, width, width, 2), nn.Tanh)
        self.critic = perceptron((4, width, width, 1), nn.Tanh)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(state), self.largest * self.critic(state).squeeze(-1)


@dataclass(frozen=True)
class PPO(Problem):
    """PPO on CartPole; what is told is minus the mean length of the last 50 episodes, 500 being the longest.

    Arguments:
        num_carts, num_steps: of a rollout, on which `num_epochs` passes are made in batches of `batch_size`.
        discount, trace: of rewards and of generalised advantages.
        clip, entropy, value: of the loss.
    """

    steps: int = 1000
    batch_size: int = 256
    width: int = 64
    num_carts: int = 32
    num_steps: int = 32
    num_epochs: int = 4
    discount: float = 0.99
    trace: float = 0.95
    clip: float = 0.2
    entropy: float = 0.005
    value: float = 0.5

    def model(self) -> nn.Module:
        return ActorCritic(self.width, 1 / (1 - self.discount))

    def draw(self, generator: Generator) -> Batch:
        raise NotImplementedError("batches come from what the model does")

    def batches(self, model: nn.Module, generator: Generator) -> Iterator[Batch]:
        carts, lengths = Carts(self.num_carts, generator), deque(maxlen=50)
        while True:
            rollout = self.rollout(model, carts, lengths)
            score = torch.tensor(-sum(lengths) / max(1, len(lengths)))
            for _ in range(self.num_epochs):
                for index in torch.randperm(len(rollout[0]), generator=generator).split(self.batch_size):
                    yield *(x[index] for x in rollout), score

    @torch.no_grad()
    def rollout(self, model: nn.Module, carts: Carts, lengths: deque[float]) -> Batch:
        """States, actions, their log-probabilities, advantages and returns."""
        seen = []
        for _ in range(self.num_steps):
            state = carts.state
            logits, value = model(state)
            chances = logits.float().softmax(dim=-1)
            action = (torch.rand(len(state), generator=carts.generator) < chances[:, 1]).long()
            log_chance = chances.gather(1, action[:, None]).squeeze(1).log()
            fell, late, age = carts.step(action)
            seen.append((state, action, log_chance, value, fell | late, late & ~fell))
            lengths.extend(age[fell | late].tolist())
        states, actions, log_chances, values, ended, cut = (torch.stack(x) for x in zip(*seen, strict=True))
        advantages = self.advantages(values, model(carts.state)[1], ended, cut)
        rows = (states, actions, log_chances, advantages, advantages + values)
        return tuple(x.flatten(0, 1) for x in rows)

    def advantages(self, values: Tensor, last: Tensor, ended: Tensor, cut: Tensor) -> Tensor:
        """Generalised advantages (Schulman et al., 2016); an episode cut for time goes on at its last value."""
        following = torch.cat([values[1:], last[None]])
        following = torch.where(ended, torch.where(cut, values, 0.0), following)
        errors = 1.0 + self.discount * following - values
        found, carried = torch.zeros_like(values), torch.zeros_like(last)
        for t in reversed(range(len(values))):
            carried = errors[t] + self.discount * self.trace * torch.where(ended[t], 0.0, carried)
            found[t] = carried
        return found

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        state, action, log_chance, advantage, target, _ = batch
        logits, value = model(state)
        log_chances = logits.log_softmax(dim=-1)
        ratio = (log_chances.gather(1, action[:, None]).squeeze(1) - log_chance).exp()
        gain = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        policy = torch.minimum(ratio * gain, ratio.clamp(1 - self.clip, 1 + self.clip) * gain).mean()
        entropy = -(log_chances.exp() * log_chances).sum(dim=-1).mean()
        return -policy - self.entropy * entropy + self.value * (1 - self.discount) ** 2 * F.mse_loss(value, target)

    def measure(self, loss: Tensor, batch: Batch) -> float:
        return float(batch[-1] if loss.isfinite() else loss.detach())

    def held_out(self) -> list[Batch]:
        return []

    def validate(self, model: nn.Module, held_out: list[Batch]) -> float:
        """Minus the mean length of 32 fresh episodes, the likelier action taken."""
        carts = Carts(32, seeded(0))
        lengths = torch.zeros(32)
        for step in range(1, LONGEST + 1):
            fell, late, _ = carts.step(model(carts.state)[0].argmax(dim=-1))
            lengths = torch.where((lengths == 0) & (fell | late), float(step), lengths)
            if bool((lengths > 0).all()):
                break
        return -float(lengths.mean())

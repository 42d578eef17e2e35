"""TorchRL: PPO on CartPole; losses are modules, and any torch.optim optimizer moves their parameters."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torch.distributions import Categorical
from torchrl.envs import GymEnv, RewardSum, StepCounter, TransformedEnv
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from benchmarks.clients.client import Choice

STEPS, BATCH, EPOCHS = 512, 64, 4


def train(optimizer: Choice, steps: int, seed: int) -> list[float]:
    """As many steps of CartPole as make about so many of the optimizer; minus the return of each episode."""
    torch.manual_seed(seed)
    environment = TransformedEnv(GymEnv("CartPole-v1", categorical_action_encoding=True), RewardSum())
    environment.append_transform(StepCounter(500))
    environment.set_seed(seed)
    actor = ProbabilisticActor(
        TensorDictModule(network(2), ["observation"], ["logits"]),
        in_keys=["logits"],
        distribution_class=Categorical,
        return_log_prob=True,
    )
    critic = ValueOperator(network(1), in_keys=["observation"])
    loss_of, advantage = ClipPPOLoss(actor, critic), GAE(gamma=0.99, lmbda=0.95, value_network=critic)
    opt, found = optimizer(loss_of.parameters()), []
    for _ in range(max(2, round(steps / (STEPS // BATCH * EPOCHS)))):
        with torch.no_grad():
            seen = environment.rollout(STEPS, actor, break_when_any_done=False)
        done = seen["next", "done"].squeeze(-1)
        found += [-float(x) for x in seen["next", "episode_reward"][done]]
        for _ in range(EPOCHS):
            advantage(seen)
            for index in torch.randperm(STEPS).split(BATCH):
                update(opt, loss_of(seen[index]))
    return found


def update(opt: torch.optim.Optimizer, losses: TensorDict) -> None:
    """One step on the sum of the actor's, the critic's and the entropy's loss."""
    opt.zero_grad()
    loss = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
    loss.backward()
    opt.step(lambda: loss)


def network(outputs: int) -> nn.Module:
    """For CartPole's four numbers."""
    return nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))

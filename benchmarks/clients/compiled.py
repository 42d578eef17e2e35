"""torch.compile: forward, backward and the optimizer's step are compiled."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks.clients.client import Choice, perceptron, table_batches


def train(optimizer: Choice, steps: int, seed: int) -> list[float]:
    """Everything that repeats is compiled; the learning rate is a tensor, so that a schedule compiles nothing anew."""
    torch.manual_seed(seed)
    model, losses, batches = perceptron(), [], table_batches(seed)
    opt = optimizer._replace(lr=torch.tensor(optimizer.lr))(model.parameters())
    loss_of = torch.compile(lambda x, y: F.cross_entropy(model(x), y))
    step = torch.compile(opt.step)
    for _ in range(steps):
        opt.zero_grad()
        loss = loss_of(*next(batches))
        loss.backward()
        step()
        losses.append(loss.item())
    return losses

"""higher: training is unrolled differentiably, `innerloop_ctx` around a LearnedOptimizer.

higher knows no AdamW; ours of that name (`rule="adamw"`) takes its steps there.
"""

from __future__ import annotations

import higher
import torch
import torch.nn.functional as F
from torch.optim import AdamW

import l2o.higher  # registers LearnedOptimizer
from benchmarks.clients.client import Choice, perceptron, table_batches
from l2o import LearnedOptimizer


def train(optimizer: Choice, steps: int, seed: int) -> list[float]:
    """One long unroll, and at its end the gradient of the loss by the weights it began with and by theta."""
    torch.manual_seed(seed)
    model, losses, batches = perceptron(), [], table_batches(seed)
    if optimizer.cls is AdamW:
        opt = LearnedOptimizer(model.parameters(), l2o.load("adamw", lr=optimizer.lr))
    else:
        opt = optimizer(model.parameters())
    with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (unrolled, differentiable):
        for _ in range(steps):
            x, y = next(batches)
            loss = F.cross_entropy(unrolled(x), y)
            losses.append(loss.item())
            differentiable.step(loss)
        x, y = next(batches)
        F.cross_entropy(unrolled(x), y).backward()
    reached = [*model.parameters(), *(p for p in opt.rule.parameters() if p.requires_grad)]
    assert any(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in reached)
    return losses

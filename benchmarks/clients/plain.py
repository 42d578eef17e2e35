"""PyTorch's own loop: accumulated gradients, a schedule of the learning rate, averaged weights (EMA, SWA)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.optim.lr_scheduler import LinearLR
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn

from benchmarks.clients.client import Choice, perceptron, table_batches

PARTS = 2


def train(optimizer: Choice, steps: int, seed: int) -> list[float]:
    """Two batches a step; a warm-up, and stochastic weight averaging over the last quarter."""
    torch.manual_seed(seed)
    model, losses = perceptron(), []
    opt = optimizer(model.parameters())
    warm_up = LinearLR(opt, start_factor=0.1, total_iters=max(1, steps // 20))
    swa_rate = SWALR(opt, swa_lr=optimizer.lr / 2, anneal_epochs=max(1, steps // 10))
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    swa = AveragedModel(model)
    batches = table_batches(seed)
    for step in range(steps):
        opt.zero_grad()
        loss = torch.zeros(())
        for x, y in (next(batches) for _ in range(PARTS)):
            part = F.cross_entropy(model(x), y) / PARTS
            part.backward()
            loss += part.detach()
        opt.step(lambda loss=loss: loss)  # a closure, as every optimizer takes one; ours reads the loss
        ema.update_parameters(model)
        if step < 3 * steps // 4:
            warm_up.step()
        else:
            swa.update_parameters(model)
            swa_rate.step()
        losses.append(float(loss))
    return losses

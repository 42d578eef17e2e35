"""Automatic mixed precision: autocast to float16 and a GradScaler."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks.clients.client import Choice, perceptron, table_batches


def train(optimizer: Choice, steps: int, seed: int) -> list[float]:
    """Gradients are scaled, unscaled, clipped; steps with overflows are left out by the scaler."""
    torch.manual_seed(seed)
    model, losses, batches = perceptron(), [], table_batches(seed)
    opt, scaler = optimizer(model.parameters()), torch.amp.GradScaler("cpu")
    for _ in range(steps):
        opt.zero_grad()
        x, y = next(batches)
        with torch.autocast("cpu", torch.float16):
            loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(opt)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        scaler.step(opt)
        scaler.update()
        losses.append(loss.item())
    return losses

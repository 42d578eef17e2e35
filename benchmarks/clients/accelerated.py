"""accelerate: `prepare` wraps the optimizer and its schedule; gradients are accumulated over two batches."""

from __future__ import annotations

import tempfile

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.clients.client import BATCH, Choice, perceptron
from l2o.tasks.data import breast_cancer


def train(optimizer: Choice, steps: int, seed: int) -> list[float]:
    """The state is saved and loaded half-way."""
    torch.manual_seed(seed)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, losses = perceptron(), []
    opt = optimizer(model.parameters())
    warm_up = LinearLR(opt, start_factor=0.1, total_iters=max(1, steps // 20))
    part = breast_cancer().train
    loader = DataLoader(TensorDataset(part.x, part.y), batch_size=BATCH, shuffle=True, drop_last=True)
    model, opt, warm_up, loader = accelerator.prepare(model, opt, warm_up, loader)
    while len(losses) < 2 * steps:
        for x, y in loader:
            with accelerator.accumulate(model):
                loss = F.cross_entropy(model(x), y)
                accelerator.backward(loss)
                opt.step()
                warm_up.step()
                opt.zero_grad()
            losses.append(loss.item())
            if len(losses) == steps:
                with tempfile.TemporaryDirectory() as folder:
                    accelerator.save_state(folder)
                    accelerator.load_state(folder)
    return losses[: 2 * steps]

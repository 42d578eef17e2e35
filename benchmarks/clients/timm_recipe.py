"""timm: the optimizer in its registry, groups with decay by layer, its schedule, mixed labels, averaged weights."""

from __future__ import annotations

import logging

import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import OptimInfo, create_optimizer_v2
from timm.optim._optim_factory import default_registry
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3, dispatch_clip_grad

from benchmarks.clients.client import Choice, photograph_batches


def train(optimizer: Choice, steps: int, seed: int) -> list[float]:
    """A small residual network on pieces of photographs."""
    torch.manual_seed(seed)
    logging.getLogger("timm.optim").setLevel(logging.ERROR)  # it would tell that a name is given again
    default_registry.register(OptimInfo("chosen", opt_class=optimizer.cls, description="what is tried"))
    model, losses, batches = timm.create_model("test_resnet", num_classes=2), [], photograph_batches(seed)
    groups = {"weight_decay": 0.01, "layer_decay": 0.9}
    opt = create_optimizer_v2(model, opt="chosen", lr=optimizer.lr, **groups, **optimizer.kwargs)
    mixup, loss_of = Mixup(mixup_alpha=0.1, num_classes=2), SoftTargetCrossEntropy()
    schedule = CosineLRScheduler(opt, steps, lr_min=0.1 * optimizer.lr, warmup_t=steps // 20, t_in_epochs=False)
    average = ModelEmaV3(model, decay=0.99)
    for step in range(steps):
        schedule.step_update(step)
        x, y = mixup(*next(batches))
        loss = loss_of(model(x), y)
        opt.zero_grad()
        loss.backward()
        dispatch_clip_grad(model.parameters(), 5.0)
        opt.step()
        average.update(model, step=step)
        losses.append(loss.item())
    return losses

"""DistributedDataParallel: two processes with half of each batch, gradients averaged by gloo."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks.clients import processes
from benchmarks.clients.client import Choice, perceptron, table_batches


def train(optimizer: Choice, steps: int, seed: int) -> list[float]:
    """Losses of whole batches."""
    return processes.run(replica, optimizer, steps, seed)


def replica(rank: int, optimizer: Choice, steps: int, seed: int) -> list[float]:
    """What each process does; the optimizer takes the mean of their losses, so that all take the same step."""
    torch.manual_seed(seed)
    model, losses, batches = DistributedDataParallel(perceptron()), [], table_batches(seed)
    opt = optimizer(model.parameters())
    for _ in range(steps):
        losses.append(processes.share_step(rank, model, opt, *next(batches)))
    assert same_everywhere(model), "replicas drifted apart"
    return losses


def same_everywhere(model: torch.nn.Module) -> bool:
    """Whether all processes have the same parameters, to the last bit."""
    mine = torch.cat([p.detach().flatten() for p in model.parameters()])
    others = [torch.empty_like(mine) for _ in range(processes.WORLD)]
    dist.all_gather(others, mine)
    return all(torch.equal(mine, other) for other in others)

"""FSDP2: parameters and the optimizer's state sharded over two processes, saved and restored half-way."""

from __future__ import annotations

import tempfile

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from benchmarks.clients import processes
from benchmarks.clients.client import Choice, perceptron, table_batches


def train(optimizer: Choice, steps: int, seed: int) -> list[float]:
    """Losses of whole batches."""
    return processes.run(shard, optimizer, steps, seed)


def shard(rank: int, optimizer: Choice, steps: int, seed: int) -> list[float]:
    """What each process does."""
    losses, batches = [], table_batches(seed)
    model, opt = made(optimizer, seed)
    for step in range(steps):
        if step == steps // 2:
            model, opt = stopped_and_restored(model, opt, optimizer)
        losses.append(processes.share_step(rank, model, opt, *next(batches)))
    return losses


def made(optimizer: Choice, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A sharded model, and its optimizer."""
    torch.manual_seed(seed)
    model = fully_shard(perceptron(), mesh=init_device_mesh("cpu", (processes.WORLD,)))
    return model, optimizer(model.parameters())


def stopped_and_restored(
    model: nn.Module, opt: torch.optim.Optimizer, optimizer: Choice
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Others in their place, from a checkpoint that each process writes its part of."""
    folder = [tempfile.mkdtemp()]
    dist.broadcast_object_list(folder)
    weights, state = get_state_dict(model, opt)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder[0])
    model, opt = made(optimizer, seed=1)
    weights, state = get_state_dict(model, opt)  # what is to be filled
    dcp.load({"model": weights, "optimizer": state}, checkpoint_id=folder[0])
    set_state_dict(model, opt, model_state_dict=weights, optim_state_dict=state)
    return model, opt

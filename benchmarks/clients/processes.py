"""Two processes of torch.distributed that run one function."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn

WORLD = 2


def run(function: Callable[..., Any], *args: Any) -> Any:
    """`function(rank, *args)` in every process; what it gave in the first.

    Arguments:
        function: at the top of a module, because it travels by name; gives plain values and tensors.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_enter, (folder, function, args), nprocs=WORLD, start_method="spawn")
        return torch.load(Path(folder) / "result.pt", weights_only=True)


def share_step(rank: int, model: nn.Module, opt: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    """One step, each process with its share of the batch; the loss of the whole."""
    opt.zero_grad()
    loss = F.cross_entropy(model(x[rank::WORLD]), y[rank::WORLD])
    loss.backward()
    opt.step(lambda: loss)
    whole = loss.detach() / WORLD
    dist.all_reduce(whole)
    return whole.item()


def _enter(rank: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    try:
        result = function(rank, *args)
        if rank == 0:
            torch.save(result, Path(folder) / "result.pt")
    finally:
        dist.destroy_process_group()

"""One optimizer in many processes: the loss that replicas share, and parameters of which each process holds a shard.

A rule sees whole tensors, because its statistics, and steps of matrices, are of whole tensors. So a sharded parameter
(a DTensor, as FSDP2 makes them) is gathered for the call, and every process takes its own shard of the step. What a
rule remembers of each coordinate is kept in shards.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor

from l2o.optim.state import Packed


def mean_over_processes(loss: Tensor) -> Tensor:
    """The mean over all processes of torch.distributed, if there are others; all of them must ask for it."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return loss
    loss = loss.clone()
    dist.all_reduce(loss)
    return loss / dist.get_world_size()


def is_sharded(x: Any) -> bool:
    """Whether it is a DTensor, without importing what defines those."""
    return hasattr(x, "full_tensor")


def whole(x: Tensor) -> Tensor:
    """All of a tensor, gathered from where its shards are."""
    return getattr(x, "full_tensor", lambda: x)()


def local(x: Tensor) -> Tensor:
    """This process's part of a tensor, in the same memory."""
    return getattr(x, "to_local", lambda: x)()


def part_like(x: Tensor, p: Tensor) -> Tensor:
    """This process's part of a whole tensor, cut as `p` is."""
    return local(_cut(x, p, 0)) if is_sharded(p) else x


def shard_state(packed: Packed, p: Tensor) -> Packed:
    """A parameter's state with what has a number for each of its coordinates cut as the parameter is."""
    if not is_sharded(p):
        return packed
    return {key: x if _first_axis(x, p) is None else _owned(_cut(x, p, _first_axis(x, p))) for key, x in packed.items()}


def gather_state(packed: Packed) -> Packed:
    """The same, whole again."""
    return {key: whole(x) for key, x in packed.items()}


def _first_axis(x: Any, p: Tensor) -> int | None:
    """Where the parameter's own axes begin in a slot; None if it has none, or is not a slot."""
    if not isinstance(x, Tensor) or p.ndim == 0 or x.ndim < p.ndim:
        return None
    extra = x.ndim - p.ndim
    return next((start for start in (extra, 0) if x.shape[start : start + p.ndim] == p.shape), None)


def _cut(x: Tensor, p: Any, first_axis: int | None) -> Any:
    """A tensor that all processes have, as a DTensor placed as `p`; `first_axis` is where p's axes begin in it."""
    from torch.distributed.tensor import DTensor, Replicate, Shard

    assert first_axis is not None
    everywhere = [Replicate()] * p.device_mesh.ndim
    placements = [Shard(first_axis + at.dim) if type(at) is Shard else at for at in p.placements]
    return DTensor.from_local(x, p.device_mesh, everywhere, run_check=False).redistribute(placements=placements)


def _owned(x: Any) -> Any:
    """In memory of its own, so that the whole can be freed."""
    return type(x).from_local(
        x.to_local().clone(), x.device_mesh, x.placements, run_check=False, shape=x.shape, stride=x.stride()
    )

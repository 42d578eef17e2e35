"""Tensors of one shape as one: what takes an operation for each of them takes one for all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

MOST_ON_CPU, MOST_ELSEWHERE = 2**16, 2**22
"""Coordinates of a batch: of more, to copy them together takes longer than the launches that it spares."""


def alike(tensors: Sequence[Tensor]) -> list[list[int]]:
    """The numbers of tensors of one shape and precision, batch by batch; large ones are alone.

    Which goes with which depends on shape, precision and device alone, never on the numbers.
    """
    batches: list[list[int]] = []
    open_: dict[tuple[torch.Size, torch.dtype], list[int]] = {}
    for i, x in enumerate(tensors):
        most = MOST_ON_CPU if x.device.type == "cpu" else MOST_ELSEWHERE
        batch = open_.get((x.shape, x.dtype))
        if batch is None or (len(batch) + 1) * x.numel() > most:
            batch = open_[x.shape, x.dtype] = []
            batches.append(batch)
        batch.append(i)
    return batches


def stacked(tensors: Sequence[Shaped[Tensor, " *shape"]]) -> Shaped[Tensor, " n *shape"]:
    """Tensors under one leading axis; a single one is not copied."""
    return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(list(tensors))

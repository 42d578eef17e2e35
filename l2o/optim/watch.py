"""How every layer of a training moves, written to TensorBoard while any optimizer trains it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from l2o.optim.learned_optimizer import LearnedOptimizer
from l2o.optim.processes import whole

LAYOUT = {
    "layers": {
        "how far a step moves, over the size of the weights": ["Multiline", ["update_ratio/.*"]],
        "size of the gradient": ["Multiline", ["gradient_norm/.*"]],
        "size of the weights": ["Multiline", ["weight_norm/.*"]],
    },
    "optimizer": {"steps that were not finite": ["Multiline", ["optimizer/skipped_steps", "optimizer/clipped_steps"]]},
}
"""Of TensorBoard's custom scalars."""


class Watch:
    """Watches the steps of optimizers until `close`; also a context manager.

    Attributes:
        step: steps seen so far.
        newest: what was written last, by tag.
    """

    def __init__(self, watched: Optimizer | nn.Module, writer: Any, every: int, owns_writer: bool) -> None:
        self._names = dict(_named(watched))
        self._writer, self._every, self._owns = writer, every, owns_writer
        self.step = 0
        self.newest: dict[str, float] = {}
        self._before: dict[Tensor, Tensor] = {}
        if isinstance(watched, Optimizer):
            self._hooks = [
                watched.register_step_pre_hook(self._begin),
                watched.register_step_post_hook(self._end),
            ]
        else:  # its optimizer may not be there yet
            self._hooks = [
                register_optimizer_step_pre_hook(self._begin),
                register_optimizer_step_post_hook(self._end),
            ]

    def close(self) -> None:
        """Stop, and write everything out."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if self._owns:
            self._writer.close()
        else:
            self._writer.flush()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _begin(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        params = self._moved_by(optimizer)
        if params and self.step % self._every == 0:
            self._before = {p: p.detach().clone() for p in params}

    @torch.no_grad()
    def _end(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        params = self._moved_by(optimizer)
        if not params:
            return
        if self._before:
            self._write(_measured({self._names[p]: (p, before) for p, before in self._before.items()}))
            self._write(_of_optimizer(optimizer))
            self._before = {}
        self.step += 1

    def _moved_by(self, optimizer: Optimizer) -> list[Tensor]:
        return [p for group in optimizer.param_groups for p in group["params"] if p in self._names]

    def _write(self, values: Mapping[str, float]) -> None:
        self.newest = {**self.newest, **values}
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, self.step)


def watch(watched: Optimizer | nn.Module, writer: Any = "runs/watch", every: int = 10) -> Watch:
    """Write to TensorBoard how every layer moves.

    Of each tensor: the size (2-norm) of its update, gradient and weights, and of the update over the weights. Of the
    optimizer: its learning rates, and of ours the steps that were not finite and whether it has fallen back.

    Arguments:
        watched: an optimizer, any of torch's kind, whose parameters are called by their names where it knows them, else
            by their numbers; or a module, for whichever optimizer moves its parameters, as libraries make their own.
        writer: a `SummaryWriter`, or a folder for one.
        every: steps from one look to the next; a look copies the parameters, and waits for a GPU once.

    Returns:
        the watch: `close()` it at the end, or use it in a `with`.

    Raises:
        TypeError: neither an optimizer nor a module.
        ValueError: `every` is not positive.
    """
    if not isinstance(watched, Optimizer | nn.Module):
        raise TypeError(f"what is watched must be an optimizer or a module; got {type(watched).__name__}.")
    if every < 1:
        raise ValueError(f"every must be at least 1, the steps from look to look; got {every}.")
    owns_writer = isinstance(writer, str | Path)
    if owns_writer:
        from torch.utils.tensorboard import SummaryWriter  # slow to import: only when it is asked for

        writer = SummaryWriter(str(writer))
    writer.add_custom_scalars(LAYOUT)
    return Watch(watched, writer, every, owns_writer)


def _named(watched: Optimizer | nn.Module) -> list[tuple[Tensor, str]]:
    if isinstance(watched, nn.Module):
        return [(p, name) for name, p in watched.named_parameters()]
    params = [p for group in watched.param_groups for p in group["params"]]
    names = [name for group in watched.param_groups for name in group.get("param_names", [None] * len(group["params"]))]
    return [(p, name or str(i)) for i, (p, name) in enumerate(zip(params, names, strict=True))]


def _measured(moved: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Sizes by tag; `moved` are parameters after and before the step."""
    sizes: dict[str, Tensor] = {}
    for name, (after, before) in moved.items():
        sizes[f"update_norm/{name}"] = _norm(after - before)
        sizes[f"weight_norm/{name}"] = _norm(before)
        if after.grad is not None:
            sizes[f"gradient_norm/{name}"] = _norm(after.grad)
    if not sizes:
        return {}
    numbers = dict(zip(sizes, torch.stack([x.cpu() for x in sizes.values()]).tolist(), strict=True))
    for name in moved:
        size = numbers[f"weight_norm/{name}"]
        numbers[f"update_ratio/{name}"] = numbers[f"update_norm/{name}"] / size if size else 0.0
    return numbers


def _norm(x: Tensor) -> Tensor:
    x = whole(x.detach())
    x = x.coalesce().values() if x.layout == torch.sparse_coo else x
    return torch.linalg.vector_norm(x.flatten().to(torch.complex64 if x.is_complex() else torch.float32)).float()


def _of_optimizer(optimizer: Optimizer) -> dict[str, float]:
    values = {
        f"optimizer/lr/{i}": float(group["lr"]) for i, group in enumerate(optimizer.param_groups) if "lr" in group
    }
    if isinstance(optimizer, LearnedOptimizer):
        values |= {
            "optimizer/skipped_steps": optimizer.skipped_steps,
            "optimizer/clipped_steps": optimizer.clipped_steps,
        }
        values["optimizer/fallen_back"] = float(optimizer.acting_rule is not optimizer.rule)
    return values

"""The words every part shares: parameters, theta, batches, and trees of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Generator, Tensor, nn
from torch.utils import _pytree

Params: TypeAlias = dict[str, Tensor]
"""Parameters of the network being trained (the optimizee), by name."""

Theta: TypeAlias = dict[str, Tensor]
"""Parameters of what is meta-trained, by name: `dict(rule.named_parameters())`."""

Batch: TypeAlias = Any
"""One mini-batch: any tree of tensors, or None for a full-batch problem."""

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


def tree_map(fn: Callable[..., Tensor], tree: T, *rest: T) -> T:
    """Apply `fn` to every tensor of a tree (dicts, tuples, lists; None stays None)."""
    return _pytree.tree_map_only(torch.Tensor, fn, tree) if not rest else _map_many(fn, tree, *rest)


def _map_many(fn: Callable[..., Tensor], *trees: T) -> T:
    leaves, spec = _pytree.tree_flatten(trees[0])
    others = [_pytree.tree_flatten(tree)[0] for tree in trees[1:]]
    mapped = [
        fn(leaf, *more) if isinstance(leaf, Tensor) else leaf for leaf, *more in zip(leaves, *others, strict=True)
    ]
    return _pytree.tree_unflatten(mapped, spec)


def tree_leaves(tree: Any) -> list[Tensor]:
    """The tensors of a tree, in its order."""
    return [leaf for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def tree_stack(trees: Sequence[T], dim: int = 0) -> T:
    """Stack equal trees along a new axis."""
    return _map_many(lambda *xs: torch.stack(xs, dim), *trees)


def tree_to(tree: T, device: torch.device | str) -> T:
    """Every tensor of a tree on a device; those that are there already are not copied."""
    return tree_map(lambda x: x.to(device), tree)


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters are; the CPU if it has none."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def bring(module: M, device: str) -> M:
    """The module, moved to a device by its name.

    Raises:
        ValueError: torch has no such device here.
        torch.OutOfMemoryError: it is full.
    """
    try:
        if torch.device(device).type == "meta":
            raise ValueError("nothing is computed on it")
        return module.to(device)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device must be one that torch has here (cpu, cuda, ...); got {device!r}: {reason}"
        ) from error


def tree_detach(tree: T) -> T:
    """Cut every tensor of a tree from the autograd graph."""
    return tree_map(lambda x: x.detach(), tree)


def draw_seed(generator: Generator) -> int:
    """A fresh seed, drawn from `generator`: names a random object by one number."""
    return int(torch.randint(2**62, (), generator=generator))


def seeded(seed: int) -> Generator:
    """A CPU generator started at `seed`."""
    return torch.Generator().manual_seed(seed)


def made(make: Callable[[], M], seed: int) -> M:
    """A fresh module whose draws come from `seed`; the global generator is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()

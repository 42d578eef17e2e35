"""Examples with labels, class by class: what few-shot episodes are drawn from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Generator, Tensor

from l2o.tasks.data.dataset import Dataset, Loaded, loader


@dataclass(frozen=True, eq=False, repr=False)
class LabelledDataset(Loaded):
    """Examples with labels, any number of each class; an immutable value.

    What a loader gave, and what `classes`, `split` and `with_rotations` make of that, is pickled as the call; data made
    by hand are pickled whole.

    Arguments:
        name: for reports.
        x: inputs; bytes are stored for images, and are divided by 255 when drawn, others are drawn as they are.
        y: labels 0 .. classes - 1, each of them present.
        class_names: of the labels in order; numbers if empty.
    """

    x: Shaped[Tensor, "_ *features"]
    y: Int[Tensor, " n"]
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (isinstance(self.x, Tensor) and isinstance(self.y, Tensor)):
            raise TypeError(
                f"{self.name!r} must hold tensors (`labelled` takes other labels too); got "
                f"{type(self.x).__name__} and {type(self.y).__name__}."
            )
        if self.x.ndim == 0 or self.y.ndim != 1 or len(self.x) != len(self.y) or len(self.x) == 0:
            raise ValueError(
                f"{self.name!r} must hold examples, one label each; got inputs of shape {tuple(self.x.shape)} and "
                f"labels of shape {tuple(self.y.shape)}."
            )
        whole_numbers = not (self.y.is_floating_point() or self.y.is_complex() or self.y.dtype == torch.bool)
        # the first two conditions also keep `counts` from filling the memory with the places of absent labels
        if not whole_numbers or self.y.min() < 0 or self.y.max() >= len(self.y) or (self.counts == 0).any():
            raise ValueError(
                f"labels of {self.name!r} must be whole numbers 0 .. classes - 1, each of them present (`labelled` "
                f"numbers any labels); got {sorted(set(self.y.tolist()))[:20]} as {self.y.dtype}."
            )
        object.__setattr__(self, "y", self.y.long())
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(
                f"{self.name!r} needs one name per class; got {len(self.class_names)} names for "
                f"{self.num_classes} classes."
            )

    @cached_property
    def counts(self) -> Int[Tensor, " classes"]:
        """Examples of each class."""
        return torch.bincount(self.y)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.counts)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.x.shape[1:])

    @cached_property
    def _order(self) -> tuple[Int[Tensor, " n"], Int[Tensor, " classes"]]:
        """Rows sorted by class, and where each class begins among them."""
        return self.y.argsort(stable=True), self.counts.cumsum(0) - self.counts

    def draw(self, classes: Int[Tensor, "*batch"], num: int, generator: Generator) -> Int[Tensor, "*batch num"]:
        """Rows of `num` different examples of each of the given classes, in random order."""
        rows, begins = self._order
        counts = self.counts[classes].unsqueeze(-1)
        if (counts < num).any():
            raise ValueError(
                f"classes drawn from must have num={num} examples each, because those drawn are different ones; "
                f"{self.name} has {int(counts.min())} of one of them."
            )
        keys = torch.rand(*classes.shape, int(self.counts.max()), generator=generator)
        keys = torch.where(torch.arange(keys.shape[-1]) < counts, keys, -1.0)
        return rows[begins[classes].unsqueeze(-1) + keys.topk(num, dim=-1).indices]

    def select(self, rows: Int[Tensor, "*batch"]) -> Shaped[Tensor, "..."]:
        """The inputs of rows; bytes as floats from 0 to 1."""
        # copies whole rows, and divides in place: a fifth of the time of `self.x[rows].float() / 255`
        x = self.x.index_select(0, rows.flatten()).reshape(*rows.shape, *self.shape)
        return x.float().div_(255) if x.dtype == torch.uint8 else x

    def classes(self, index: Sequence[int] | Tensor, name: str = "") -> LabelledDataset:
        """Only some classes, numbered anew in the order given."""
        chosen = tuple(int(i) for i in index)
        if len(set(chosen)) < max(len(chosen), 1) or min(chosen) < 0 or max(chosen) >= self.num_classes:
            raise ValueError(
                f"classes must be one or more different ones of the {self.num_classes} of {self.name}, by number; "
                f"got {list(chosen)[:20]}."
            )
        return _derived(self, _some_classes, chosen, name or f"{self.name} ({len(chosen)} classes)")

    def split(self, sizes: Sequence[int], seed: int = 0) -> tuple[LabelledDataset, ...]:
        """Data sets without a common class, of so many classes each, drawn by `seed`."""
        if not sizes or sum(sizes) > self.num_classes or min(sizes) < 1:
            raise ValueError(
                f"sizes must be positive and sum to at most the {self.num_classes} classes of {self.name}, because no "
                f"class may be in two parts; got {tuple(sizes)}."
            )
        order = torch.randperm(self.num_classes, generator=torch.Generator().manual_seed(seed))
        parts = order[: sum(sizes)].split(list(sizes))
        return tuple(self.classes(part, f"{self.name} (part {i}, seed {seed})") for i, part in enumerate(parts))

    def with_rotations(self) -> LabelledDataset:
        """Images turned by 0, 90, 180 and 270 degrees, each turn of a class a class of its own: four times as many."""
        if self.x.ndim < 3 or self.x.shape[-1] != self.x.shape[-2]:
            raise ValueError(
                f"rotations need square images (..., size, size), or the shape would change; {self.name} has inputs "
                f"of shape {self.shape}."
            )
        return _derived(self, _with_rotations)


def labelled(name: str, x: Tensor, y: Sequence[object] | np.ndarray | Tensor) -> LabelledDataset:
    """A data set from anyone's tensors: labels may be any numbers or strings, and are numbered in sorted order."""
    values = list(y) if isinstance(y, Sequence) else y.tolist()
    try:
        names = sorted(set(values))
    except TypeError as error:
        kinds = sorted({type(value).__name__ for value in values})
        raise TypeError(
            f"labels of {name!r} must be numbers or strings, of one kind, because they are numbered in their order; "
            f"got {', '.join(kinds)}: {error}."
        ) from error
    if any(value != value for value in names):
        raise ValueError(f"labels of {name!r} must not be nan, because it is no class; leave such examples out.")
    number = {value: i for i, value in enumerate(names)}
    return LabelledDataset(name, x, torch.tensor([number[value] for value in values]), tuple(map(str, names)))


def from_dataset(data: Dataset) -> LabelledDataset:
    """All examples of a data set, training and validation, by class."""
    return _derived(data, _both_parts)


def _derived(base: Loaded, build: Callable[..., LabelledDataset], *args: object) -> LabelledDataset:
    """What a loader makes of data that travel as a call travels so too; nothing made by hand is kept in its cache."""
    return (build if base.call else inspect.unwrap(build))(base, *args)


@loader
def _some_classes(whole: LabelledDataset, index: tuple[int, ...], name: str) -> LabelledDataset:
    new = torch.full((whole.num_classes,), -1)
    new[list(index)] = torch.arange(len(index))
    keep = new[whole.y] >= 0
    names = tuple(whole.class_names[i] for i in index) if whole.class_names else ()
    return LabelledDataset(name, whole.x[keep], new[whole.y[keep]], names)


@loader
def _with_rotations(whole: LabelledDataset) -> LabelledDataset:
    x = torch.cat([torch.rot90(whole.x, turn, dims=(-2, -1)) for turn in range(4)])
    y = torch.cat([whole.y + turn * whole.num_classes for turn in range(4)])
    names = tuple(f"{name}, {90 * turn} degrees" for turn in range(4) for name in whole.class_names)
    return LabelledDataset(f"{whole.name} with rotations", x, y, names)


@loader
def _both_parts(data: Dataset) -> LabelledDataset:
    x = torch.cat([data.train.x, data.validation.x])
    return LabelledDataset(data.name, x, torch.cat([data.train.y, data.validation.y]))

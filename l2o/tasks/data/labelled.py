"""Examples with labels, class by class: what few-shot episodes are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int, Shaped
from torch import Generator, Tensor

from l2o.tasks.data.dataset import Loaded


@dataclass(frozen=True, eq=False, repr=False)
class LabelledDataset(Loaded):
    """Examples with labels, any number of each class; an immutable value.

    Arguments:
        name: for reports.
        x: inputs; bytes are stored for images, and are divided by 255 when drawn.
        y: labels 0 .. classes - 1, each of them present.
        class_names: of the labels in order; numbers if empty.
    """

    x: Shaped[Tensor, n * features]
    y: Int[Tensor, " n"]
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y) or len(self.x) == 0:
            raise ValueError(
                f"{self.name!r} must hold examples, one label each; got {len(self.x)} inputs and {len(self.y)} labels."
            )
        if not bool((self.counts > 0).all()):
            raise ValueError(
                f"labels of {self.name!r} must be 0 .. classes - 1, each of them present (`labelled` numbers any "
                f"labels); got {sorted(set(self.y.tolist()))[:20]}."
            )
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
        """Rows of `num` different examples of each of the given classes."""
        rows, begins = self._order
        counts = self.counts[classes].unsqueeze(-1)
        keys = torch.rand(*classes.shape, int(self.counts.max()), generator=generator)
        keys = torch.where(torch.arange(keys.shape[-1]) < counts, keys, -1.0)
        return rows[begins[classes].unsqueeze(-1) + keys.topk(num, dim=-1).indices]

    def select(self, rows: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch *features"]:
        """The inputs of rows, as floats."""
        x = self.x[rows]
        return x.float() / 255 if x.dtype == torch.uint8 else x.float()

    def classes(self, index: Sequence[int] | Tensor, name: str = "") -> LabelledDataset:
        """Only some classes, numbered anew in the order given."""
        index = torch.as_tensor(index)
        new = torch.full((self.num_classes,), -1).index_copy(0, index, torch.arange(len(index)))
        keep = new[self.y] >= 0
        names = tuple(self.class_names[i] for i in index.tolist()) if self.class_names else ()
        return LabelledDataset(name or f"{self.name} ({len(index)} classes)", self.x[keep], new[self.y[keep]], names)

    def split(self, sizes: Sequence[int], seed: int = 0) -> tuple[LabelledDataset, ...]:
        """Data sets without a common class, of so many classes each, drawn by `seed`."""
        if sum(sizes) > self.num_classes or min(sizes) < 1:
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
        x = torch.cat([torch.rot90(self.x, turn, dims=(-2, -1)) for turn in range(4)])
        y = torch.cat([self.y + turn * self.num_classes for turn in range(4)])
        names = tuple(f"{name}, {90 * turn} degrees" for turn in range(4) for name in self.class_names)
        return LabelledDataset(f"{self.name} with rotations", x, y, names)


def labelled(name: str, x: Tensor, y: Sequence[object] | Tensor) -> LabelledDataset:
    """A data set from anyone's tensors: labels may be any numbers or strings, and are numbered in sorted order."""
    values = y.tolist() if isinstance(y, Tensor) else list(y)
    names = sorted(set(values))
    number = {value: i for i, value in enumerate(names)}
    return LabelledDataset(name, x, torch.tensor([number[value] for value in values]), tuple(map(str, names)))

"""Examples with labels in two parts, training and validation; an immutable value that travels as its loader's call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from jaxtyping import Shaped
from torch import Generator, Tensor

P = ParamSpec("P")
D = TypeVar("D", bound="Loaded")


class Part(NamedTuple):
    """Examples.

    x: inputs; bytes are stored for images (a quarter of the memory) and are divided by 255 when drawn.
    y: labels.
    """

    x: Shaped[Tensor, " n *features"]
    y: Shaped[Tensor, " n"]

    def select(self, index: Shaped[Tensor, "*batch"]) -> tuple[Tensor, Shaped[Tensor, "*batch"]]:
        """The examples at `index`, inputs as floats."""
        x = self.x[index]
        return (x.float() / 255 if x.dtype == torch.uint8 else x), self.y[index]

    def draw(self, generator: Generator, *shape: int) -> tuple[Tensor, Tensor]:
        """Examples drawn independently, in the given leading shape."""
        return self.select(torch.randint(len(self.x), shape, generator=generator))


@dataclass(frozen=True, eq=False, repr=False)
class Loaded:
    """Data with a name, equal only to itself; what a `loader` gave is pickled as the call, not as the data."""

    name: str
    call: tuple[Callable[..., Any], tuple[Any, ...]] | None = field(default=None, kw_only=True)

    def __reduce__(self) -> Any:
        return self.call if self.call is not None else super().__reduce__()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset(Loaded):
    """Labelled examples. Images are (channels, height, width) in [0, 1], tables (features,) at unit scale.

    Arguments:
        name: for reports.
        train: examples that training draws from.
        validation: examples that training never sees.
        num_classes: labels are 0 .. num_classes - 1.
    """

    train: Part
    validation: Part
    num_classes: int

    def __post_init__(self) -> None:
        for part in (self.train, self.validation):
            if len(part.x) != len(part.y) or len(part.x) == 0:
                raise ValueError(
                    f"each part of data set {self.name!r} must hold examples, one label each; "
                    f"got {len(part.x)} inputs and {len(part.y)} labels."
                )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.train.x.shape[1:])

    @property
    def num_features(self) -> int:
        """Numbers in one input."""
        return self.train.x[0].numel()

    def split(self, fraction: float = 0.5, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Two data sets without a common example: a random `fraction`, and the rest.

        Both parts are split. The same arguments give the same halves in every process, so one process can meta-train
        on the first and another evaluate on the second.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must lie between 0 and 1, because both sides need examples; got {fraction}.")
        return _side(self, fraction, seed, False), _side(self, fraction, seed, True)

    def subset(self, index: Sequence[int]) -> Dataset:
        """The data set with only these training examples; validation stays whole."""
        return _subset(self, tuple(int(i) for i in index))


def loader(build: Callable[P, D]) -> Callable[P, D]:
    """Make a function load its data once per process and give data that pickle as the call.

    So data sets keep their identity, tasks on them share one structure, and a worker of a cluster gets a name in place
    of megabytes. Arguments must be hashable; the function must be importable.
    """
    signature = inspect.signature(build)

    @lru_cache(maxsize=512)
    def cached(*args: Any) -> D:
        return replace(build(*args), call=(load, args))  # type: ignore[call-arg]

    @wraps(build)
    def load(*args: P.args, **kwargs: P.kwargs) -> D:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return cached(*bound.arguments.values())

    return load


@loader
def _side(whole: Dataset, fraction: float, seed: int, rest: bool) -> Dataset:
    generator = torch.Generator().manual_seed(seed)

    def cut(part: Part) -> Part:
        order = torch.randperm(len(part.x), generator=generator)
        at = min(max(round(fraction * len(order)), 1), len(order) - 1)
        index = (order[at:] if rest else order[:at]).sort().values
        return Part(part.x[index], part.y[index])

    side = "rest of " if rest else ""
    name = f"{whole.name} ({side}{fraction:g}, seed {seed})"
    return Dataset(name, cut(whole.train), cut(whole.validation), whole.num_classes)


@loader
def _subset(whole: Dataset, index: tuple[int, ...]) -> Dataset:
    rows = torch.tensor(index, dtype=torch.int64)
    train = Part(whole.train.x[rows], whole.train.y[rows])
    return Dataset(f"{whole.name} ({len(index)} examples)", train, whole.validation, whole.num_classes)

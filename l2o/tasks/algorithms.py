"""Small algorithms to be learned from examples (Graves et al., 2014, https://arxiv.org/abs/1410.5401, section 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.tasks.sequences import Sequences, SequenceSource


@dataclass(frozen=True)
class Copy(SequenceSource):
    """Random vectors of bits, then a mark on a channel of its own; then say them again (section 4.1).

    Arguments:
        bits: in a vector.
        length: least and most vectors in a sequence.
    """

    bits: int = 8
    length: tuple[int, int] = (1, 20)

    def __post_init__(self) -> None:
        _check_range("length", self.length)

    @property
    def inputs(self) -> int:
        return self.bits + 1

    @property
    def outputs(self) -> int:
        return self.bits

    @property
    def longest(self) -> int:
        return 2 * self.length[1] + 1

    def sample(self, generator: Generator, num: int) -> Sequences:
        length = _draw(self.length, generator)
        vectors = _bits(generator, num, length, self.bits)
        x = torch.zeros(num, 2 * length + 1, self.inputs)
        x[:, :length, :-1] = vectors
        x[:, length, -1] = 1.0
        return _answer(x, vectors)


@dataclass(frozen=True)
class RepeatCopy(SequenceSource):
    """Random vectors, then on a channel of its own how often to say them; then say them so often, and a mark (4.2).

    The number of repeats comes with mean 0 and variance 1 over those of training, `known`.

    Arguments:
        bits: in a vector.
        length: least and most vectors in a sequence.
        repeats: least and most repeats.
        known: least and most repeats of training, where `repeats` are others; None where they are not.
    """

    bits: int = 8
    length: tuple[int, int] = (1, 10)
    repeats: tuple[int, int] = (1, 10)
    known: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("length", "repeats"):
            _check_range(name, getattr(self, name))

    @property
    def inputs(self) -> int:
        return self.bits + 2

    @property
    def outputs(self) -> int:
        return self.bits + 1

    @property
    def longest(self) -> int:
        return self.length[1] * (self.repeats[1] + 1) + 2

    def sample(self, generator: Generator, num: int) -> Sequences:
        length, repeats = _draw(self.length, generator), _draw(self.repeats, generator)
        vectors = _bits(generator, num, length, self.bits)
        y = torch.zeros(num, length * repeats + 1, self.outputs)
        y[:, :-1, :-1] = vectors.repeat(1, repeats, 1)
        y[:, -1, -1] = 1.0  # that all is said
        x = torch.zeros(num, length + 1 + y.shape[1], self.inputs)
        x[:, :length, : self.bits] = vectors
        x[:, length, -2] = 1.0
        x[:, length, -1] = self._standard(repeats)
        return _answer(x, y)

    def _standard(self, repeats: int) -> float:
        low, high = self.known or self.repeats
        deviation = math.sqrt(((high - low + 1) ** 2 - 1) / 12) or 1.0
        return (repeats - (low + high) / 2) / deviation


@dataclass(frozen=True)
class AssociativeRecall(SequenceSource):
    """Items of some vectors each, a mark before each; then one of them between other marks: say the next one (4.3).

    Arguments:
        bits: in a vector.
        item: vectors in an item.
        items: least and most items in a sequence.
    """

    bits: int = 6
    item: int = 3
    items: tuple[int, int] = (2, 6)

    def __post_init__(self) -> None:
        _check_range("items", self.items, least=2)  # the asked one is never the last

    @property
    def inputs(self) -> int:
        return self.bits + 2

    @property
    def outputs(self) -> int:
        return self.bits

    @property
    def longest(self) -> int:
        return (self.items[1] + 1) * (self.item + 1) + 1 + self.item

    def sample(self, generator: Generator, num: int) -> Sequences:
        items = _draw(self.items, generator)
        vectors = _bits(generator, num, items, self.item, self.bits)
        asked = torch.randint(items - 1, (num,), generator=generator)
        each = torch.arange(num)
        shown = torch.cat([vectors, vectors[each, asked].unsqueeze(1)], dim=1)
        x = torch.zeros(num, items + 1, self.item + 1, self.inputs)
        x[:, :, 1:, : self.bits] = shown
        x[:, :-1, 0, -2] = 1.0
        x[:, -1, 0, -1] = 1.0
        closing = torch.zeros(num, 1 + self.item, self.inputs)
        closing[:, 0, -1] = 1.0
        return _answer(torch.cat([x.flatten(1, 2), closing], dim=1), vectors[each, asked + 1])


def _answer(x: Float[Tensor, "num time inputs"], y: Float[Tensor, "num answers outputs"]) -> Sequences:
    """Sequences whose last steps are to be answered."""
    num, time, answers = len(x), x.shape[1], y.shape[1]
    mask = (torch.arange(time) >= time - answers).expand(num, -1)
    return Sequences(x, torch.cat([y.new_zeros(num, time - answers, y.shape[2]), y], dim=1), mask)


def _bits(generator: Generator, *shape: int) -> Float[Tensor, "*shape"]:
    return torch.randint(2, shape, generator=generator).float()


def _draw(bounds: tuple[int, int], generator: Generator) -> int:
    return int(torch.randint(bounds[0], bounds[1] + 1, (), generator=generator))


def _check_range(name: str, bounds: tuple[int, int], least: int = 1) -> None:
    if not least <= bounds[0] <= bounds[1]:
        raise ValueError(f"{name} must be a least and a most number, from {least} on; got {bounds}.")

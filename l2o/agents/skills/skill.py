"""A skill, and the row of a table that it is kept in: plain values, bytes and JSON, with a digest of them all."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import Tensor

from l2o.types import Params


@dataclass(frozen=True)
class Skill:
    """Something learned.

    Arguments:
        descriptor: what the skill is for: a goal, an embedding of a task; skills near to each other have near ones.
        weights: of the policy that has it.
        statistics: plain numbers, such as its success rate and the environment steps it took.
        parents: numbers, in the library, of the skills that it grew out of.
        version: 1 for the first of a descriptor; the library counts.
    """

    descriptor: Float[Tensor, " d"]
    weights: Params
    statistics: Mapping[str, float] = field(default_factory=dict)
    parents: tuple[int, ...] = ()
    version: int = 1

    def __post_init__(self) -> None:
        if self.descriptor.numel() < 1 or not bool(self.descriptor.isfinite().all()):
            raise ValueError(f"a descriptor must be finite numbers, by which it is found; got {self.descriptor}.")
        if not all(math.isfinite(value) for value in self.statistics.values()):
            raise ValueError(f"statistics must be finite numbers; got {dict(self.statistics)}.")


class Row(NamedTuple):
    """A skill as it is kept: float32 in bytes, weights as a safetensors file, all else in JSON."""

    descriptor: bytes
    version: int
    statistics: str
    parents: str
    weights: bytes


def to_row(skill: Skill) -> Row:
    """A skill as a library keeps it."""
    weights = write_tensors({name: x.detach().cpu().contiguous().clone() for name, x in skill.weights.items()})
    statistics, parents = json.dumps(dict(skill.statistics), sort_keys=True), json.dumps(list(skill.parents))
    descriptor = skill.descriptor.detach().cpu().float().contiguous().numpy().astype("<f4").tobytes()
    return Row(bytes(descriptor), skill.version, statistics, parents, weights)


def from_row(row: Row) -> Skill:
    """The skill again; nothing is executed.

    Raises:
        ValueError: the values are not those of a skill.
    """
    try:
        told = {str(name): float(value) for name, value in json.loads(row.statistics).items()}
        return Skill(
            descriptor_in(row.descriptor), read_tensors(row.weights), told, numbers_in(row.parents), row.version
        )
    except (SafetensorError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def digest(key: bytes, version: int, statistics: str, parents: str, weights: bytes) -> str:
    """Of all that a skill is."""
    found = hashlib.sha256(json.dumps([version, statistics, parents]).encode())
    for part in (key, weights):
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.hexdigest()


def is_whole(row: tuple[Any, ...]) -> bool:
    """Whether values are of their kinds (SQLite has any in any column), and fit the digest behind them."""
    kinds = (bytes, int, str, str, bytes)
    return all(map(isinstance, row, kinds)) and digest(*row[:-1]) == row[-1]


def descriptor_in(blob: bytes) -> Float[Tensor, " d"]:
    """The descriptor of a row."""
    return torch.frombuffer(bytearray(blob), dtype=torch.float32)


def numbers_in(parents: str) -> tuple[int, ...]:
    """The parents of a row.

    Raises:
        ValueError: they are no list of whole numbers.
    """
    found = json.loads(parents)
    if not (isinstance(found, list) and all(type(one) is int for one in found)):
        raise ValueError(f"a list of numbers was expected; got {parents[:60]}")
    return tuple(found)

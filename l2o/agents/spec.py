"""What an agent is: named, versioned parts, none of which changes; a new agent is a new value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from l2o.rules.base import UpdateRule
from l2o.saved import from_bytes, to_bytes
from l2o.types import tree_leaves


class Part(NamedTuple):
    """One thing that can change: policy weights with their optimizer's state, hyperparameters, a chooser, a rule.

    version: 0 for what the agent began with; the number of the trial that accepted it otherwise.
    value: a tree of tensors and plain values, as `l2o.training.checkpoint` can hold it.
    """

    version: int
    value: Any


@dataclass(frozen=True)
class AgentSpec(Mapping[str, Any]):
    """All parts of an agent; a mapping from their names to their values."""

    parts: Mapping[str, Part] = field(default_factory=dict)

    @classmethod
    def of(cls, **values: Any) -> AgentSpec:
        """A first agent: every part at version 0."""
        return cls({name: Part(0, value) for name, value in values.items()})

    def __getitem__(self, name: str) -> Any:
        return self.parts[name].value

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def versions(self) -> dict[str, int]:
        """The version of each part."""
        return {name: part.version for name, part in self.parts.items()}

    def replaced(self, name: str, value: Any, version: int) -> AgentSpec:
        """The agent with another version of one part.

        Raises:
            ValueError: it has no such part.
        """
        if name not in self.parts:
            raise ValueError(f"an agent changes in its parts, which are {', '.join(self.parts)}; got {name!r}.")
        return AgentSpec({**self.parts, name: Part(version, value)})


@dataclass(frozen=True)
class Proposal:
    """A new value for one part.

    Arguments:
        part: its name.
        value: in place of the present one.
        by: who proposes, for the ledger.
    """

    part: str
    value: Any
    by: str = ""


def is_finite(value: Any) -> bool:
    """Whether every number in a part's tensors is."""
    return all(bool(leaf.isfinite().all()) for leaf in tree_leaves(value) if leaf.is_floating_point())


def packed(module: nn.Module) -> Tensor:
    """A rule, or a chooser, as a part's value: its file's bytes, so that a version is class, arguments and weights."""
    return torch.frombuffer(bytearray(to_bytes(module, {})), dtype=torch.uint8)


def unpacked_module(value: Tensor, name: str) -> nn.Module:
    """The module that `packed` was given.

    Raises:
        ValueError: it is not whole.
    """
    return from_bytes(bytes(value.numpy().tobytes()), name)


def unpacked(value: Tensor, name: str = "the agent's rule") -> UpdateRule:
    """The rule that `packed` was given.

    Raises:
        ValueError: it is not whole, or no update rule.
    """
    rule = unpacked_module(value, name)
    if not isinstance(rule, UpdateRule):
        raise ValueError(f"an agent learns with an update rule; {name} is a {type(rule).__name__}.")
    return rule

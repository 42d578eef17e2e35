"""What a CUDA graph that is being recorded reads again whenever it is played, and so must be kept as long as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

_kept: ContextVar[list[Any] | None] = ContextVar("_kept", default=None)


@contextmanager
def recording() -> Iterator[list[Any]]:
    """Collects what is `kept` inside."""
    kept: list[Any] = []
    token = _kept.set(kept)
    try:
        yield kept
    finally:
        _kept.reset(token)


def keep(x: T) -> T:
    """Note a tensor, or what holds some, that comes from a cache which may let it go."""
    kept = _kept.get()
    if kept is not None:
        kept.append(x)
    return x


def is_recording() -> bool:
    """Whether a graph is being recorded."""
    return _kept.get() is not None

"""A module as one safetensors file: its tensors, and in the header a JSON of schema, class and constructor arguments.

Nothing in a file is executed: its class is one of those that `l2o` exports or that were registered, never imported by
name.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import struct
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import Tensor, nn

SCHEMA = 1
"""Version of the header; raised when older files need a migration."""

_HOMES = ("l2o.rules", "l2o.learners")
_registered: dict[str, type[nn.Module]] = {}

M = TypeVar("M", bound=type[nn.Module])


class Card(NamedTuple):
    """What the header of a saved module says; `frozen` are parameters that are not trained."""

    class_name: str
    config: dict[str, Any]
    metadata: dict[str, Any]
    frozen: tuple[str, ...] = ()


def register(cls: M) -> M:
    """Let saved files hold instances of your own class; also a decorator.

    Its instances must have their constructor's arguments in the dict `config`, as update rules do by themselves.

    Raises:
        ValueError: another class has this name.
    """
    known = classes().get(cls.__name__, cls)
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(
            f"a class name must be unique, because files name their class by it; {cls.__name__} is already "
            f"{known.__module__}.{known.__qualname__}."
        )
    _registered[cls.__name__] = cls
    return cls


def classes() -> dict[str, type[nn.Module]]:
    """Classes that files may hold, by name."""
    found = {}
    for home in _HOMES:
        exported = importlib.import_module(home)
        for name in getattr(exported, "__all__", ()):
            cls = getattr(exported, name)
            if isinstance(cls, type) and issubclass(cls, nn.Module) and not inspect.isabstract(cls):
                found[name] = cls
    return found | _registered


def to_bytes(module: nn.Module, notes: Mapping[str, Any]) -> bytes:
    """The file of a module; `from_bytes` has been tried on it.

    Raises:
        ValueError: the module could not be loaded again.
    """
    header = {"schema": SCHEMA, **_describe(module), "metadata": dict(notes), "l2o": _version()}
    header["frozen"] = [name for name, p in module.named_parameters() if not p.requires_grad]
    try:
        text = json.dumps(header, sort_keys=True)
    except TypeError as error:
        raise ValueError(f"config and metadata must be plain values that JSON can hold; {error}.") from error
    tensors = {name: x.detach().cpu().contiguous().clone() for name, x in module.state_dict().items()}
    data = write_tensors(tensors, {"l2o": text})
    from_bytes(data, "this module")
    return data


def from_bytes(data: bytes, origin: str) -> nn.Module:
    """The module of a file.

    Arguments:
        origin: what the file is called in errors.

    Raises:
        ValueError: not a whole file of a known class, with the tensors that its arguments ask for.
    """
    card = read_card(data, origin)
    cls = _class_named(card.class_name)
    try:
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn, then overwritten
            module = cls(**{key: _decode(value) for key, value in card.config.items()})
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{card.class_name} must accept the saved arguments; in {origin} they fail: {error}"
        ) from error
    try:
        tensors = read_tensors(data)
    except SafetensorError as error:
        raise ValueError(f"the file must be whole; {origin} is truncated or damaged: {error}.") from error
    if all(
        tensors.get(name, x).dtype == torch.float64 for name, x in module.state_dict().items() if x.is_floating_point()
    ):
        module.double()
    _check_tensors(module.state_dict(), tensors, card.class_name, origin)
    module.load_state_dict(tensors)
    for name, parameter in module.named_parameters():
        if name in card.frozen:
            parameter.requires_grad_(False)
    return module


def read_card(data: bytes, origin: str) -> Card:
    """What the header of a file says; errors as `from_bytes`."""
    try:
        (size,) = struct.unpack("<Q", data[:8])
        text = json.loads(data[8 : 8 + size]).get("__metadata__", {}).get("l2o")
    except (struct.error, ValueError, AttributeError, OverflowError) as error:
        if data[:1] == b"\x80" or data[:2] == b"PK":
            raise ValueError(
                f"a saved module must be a safetensors file, because a pickle can run any code when loaded; {origin} "
                "is a pickle (or what torch.save makes of one)."
            ) from error
        raise ValueError(f"a saved module must be a whole safetensors file; {origin} is not, or is damaged.") from error
    if text is None:
        raise ValueError(f"a saved module must be written by `l2o.save`, which names its class; {origin} was not.")
    try:
        header = json.loads(text)
        if header["schema"] != SCHEMA:
            raise ValueError(
                f"the schema must be {SCHEMA}, the one this version of l2o reads; {origin} has {header['schema']!r}, "
                f"written by l2o {header.get('l2o')}."
            )
        frozen = tuple(map(str, header.get("frozen", ())))
        return Card(str(header["class"]), dict(header["config"]), dict(header["metadata"]), frozen)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"the header must give schema, class, config and metadata; that of {origin} does not."
        ) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, flushed to disk; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _describe(module: nn.Module) -> dict[str, Any]:
    name, config = type(module).__name__, getattr(module, "config", None)
    if classes().get(name) is not type(module):
        raise ValueError(
            "a saved module must be of a class that l2o exports or that `l2o.load.register` knows, because loading "
            f"imports nothing by name; got {type(module).__module__}.{type(module).__qualname__}."
        )
    if not isinstance(config, Mapping):
        raise ValueError(
            "a saved module must have its constructor's arguments in the dict `config`, because it is made again from "
            f"them; {name}.config is {config!r}."
        )
    return {"class": name, "config": {key: _encode(value) for key, value in config.items()}}


def _encode(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return {"module": _describe(value)}
    return [_encode(child) for child in value] if isinstance(value, list | tuple) else value


def _decode(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"module"}:
        cls, config = _class_named(value["module"]["class"]), value["module"]["config"]
        return cls(**{key: _decode(child) for key, child in config.items()})
    return tuple(_decode(child) for child in value) if isinstance(value, list) else value


def _class_named(name: str) -> type[nn.Module]:
    known = classes()
    if name not in known:
        raise ValueError(
            f"the class must be one of {', '.join(sorted(known))} (register yours with `l2o.load.register`), because "
            f"loading imports nothing by name; got {name!r}."
        )
    return known[name]


def _check_tensors(expected: dict[str, Tensor], found: dict[str, Tensor], class_name: str, origin: str) -> None:
    faults = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    faults += [f"{name} is unknown" for name in sorted(found.keys() - expected.keys())]
    for name in sorted(expected.keys() & found.keys()):
        want, got = expected[name], found[name]
        if (want.shape, want.dtype) != (got.shape, got.dtype):
            faults.append(f"{name} is {got.dtype} {tuple(got.shape)}, not {want.dtype} {tuple(want.shape)}")
    if faults:
        raise ValueError(
            f"the tensors must be those of a {class_name} with the saved arguments; in {origin} {'; '.join(faults)}."
        )


def _version() -> str:
    try:
        return metadata.version("l2o")
    except metadata.PackageNotFoundError:  # used from a folder, never installed
        return "unknown"

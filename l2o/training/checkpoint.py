"""Trees of tensors on disk: one safetensors file, written atomically, read without executing code."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2o.estimators.episodic import EpisodicState
from l2o.estimators.es import ESState
from l2o.estimators.problems import ProblemState
from l2o.files import read_file, write_atomically
from l2o.inner_loop import InnerState
from l2o.rules.base import OptState
from l2o.tensor_file import Migrations, migrated, pack, take_apart, unpack

SCHEMA = 2
"""Version of the file's layout; raised when old files need a migration."""

MIGRATIONS: Migrations = {1: lambda header: header}
"""Files of schema 1 have no checksum, and numbers that are not finite as they are, which is no JSON."""

MAX_BYTES = 1 << 36

_named_tuples: dict[str, type] = {}


def register_state(cls: type) -> type:
    """Let checkpoints hold instances of a NamedTuple class (an estimator's own state); returns the class."""
    _named_tuples[cls.__name__] = cls
    return cls


for _cls in (OptState, InnerState, ProblemState, ESState, EpisodicState):
    register_state(_cls)


def save_tree(tree: Any, path: str | Path) -> None:
    """Write a tree of dicts, lists, tuples, registered NamedTuples, tensors, numbers, strings and None.

    The file appears whole or not at all: it is written beside its place, flushed to disk, then renamed.

    Raises:
        TypeError: the tree holds something else.
        OSError: the disk is full, or the folder cannot be written; what stood at `path` before is unharmed.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(_encode(tree, tensors), allow_nan=False)
    write_atomically(Path(path), pack(tensors, {"schema": str(SCHEMA), "tree": skeleton}))


def load_tree(path: str | Path) -> Any:
    """Read what `save_tree` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a checkpoint, is damaged, or was written by a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"a checkpoint must be an existing file; there is none at {path}.")
    data = read_file(path, MAX_BYTES)
    try:
        texts = take_apart(data, "its file").texts
        schema = int(texts.get("schema", 0))
        header = migrated({"schema": schema, "tree": texts.get("tree")}, SCHEMA, MIGRATIONS, "its file")
        tensors = unpack(data, "its file", needs_checksum=schema > 1)
        return _decode(json.loads(header["tree"]), tensors)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no checkpoint of l2o, or is damaged: {error}") from error


def fingerprint(tree: Any) -> str:
    """A checksum of what a tree holds, the same wherever and whenever it is taken; of a file it is not, since those of
    equal trees may differ in the order of their header.

    Raises:
        TypeError: the tree holds what `save_tree` does not write.
    """
    tensors: dict[str, Tensor] = {}
    found = hashlib.sha256(json.dumps(_encode(tree, tensors)).encode())
    for name, tensor in tensors.items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return found.hexdigest()


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_key(key), _encode(child, tensors)] for key, child in value.items()]}
    if isinstance(value, tuple) and type(value).__name__ in _named_tuples:
        return {"named": type(value).__name__, "items": [_encode(child, tensors) for child in value]}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_encode(child, tensors) for child in value]}
    raise TypeError(
        "a checkpoint holds tensors, numbers, strings, None, dicts, lists, tuples and registered NamedTuples, so that "
        f"it loads without executing code; got {type(value).__name__}."
    )


def _key(key: Any) -> str | int:
    if not isinstance(key, str | int):
        raise TypeError(f"keys of a checkpoint must be strings or integers; got {key!r}.")
    return key


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        raise ValueError("its tree has a bare list, which nothing of ours writes.")
    if not isinstance(value, dict):
        return value
    kind = next(iter(value), None)
    if kind == "tensor":
        return tensors[value["tensor"]]
    if kind == "float":
        return float(value["float"])
    if kind == "dict":
        return {_key(key): _decode(child, tensors) for key, child in value["dict"]}
    if kind == "named":
        return _named_tuples[value["named"]](*(_decode(child, tensors) for child in value["items"]))
    if kind not in ("list", "tuple"):
        raise ValueError(f"its tree has a branch of kind {kind!r}, which is none.")
    decoded = [_decode(child, tensors) for child in value[kind]]
    return tuple(decoded) if kind == "tuple" else decoded

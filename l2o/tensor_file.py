"""A safetensors file that tells whether it is what was written: tensors, texts in its header, a checksum over both.

Weights (`l2o.saved`) and checkpoints (`l2o.training.checkpoint`) are such files. Any reader of safetensors reads them.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import Tensor

CHECKSUM = "sha256"
MAX_HEADER = 100_000_000
"""Bytes, as in safetensors itself."""

Migrations = Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]
"""By schema: makes a header of the next one."""


class Parts(NamedTuple):
    """A file taken apart.

    texts: what stands in the header beside the tensors, by name.
    checksum: over all else, as the file has it; None in files from before there was one.
    tensors: names, dtypes and places, as safetensors writes them.
    payload: the tensors' bytes.
    """

    texts: dict[str, str]
    checksum: str | None
    tensors: dict[str, Any]
    payload: memoryview


def pack(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> bytes:
    """The file; equal contents give equal bytes."""
    parts = take_apart(write_tensors(dict(tensors), dict(texts)), "what is written")
    header = {"__metadata__": {**parts.texts, CHECKSUM: _checksum(parts)}, **parts.tensors}
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((struct.pack("<Q", len(text)), text, parts.payload))


def take_apart(data: bytes, origin: str) -> Parts:
    """The parts of a file, without making a tensor.

    Arguments:
        origin: what the file is called in errors.

    Raises:
        ValueError: it is no safetensors file, or is damaged.
    """
    try:
        (size,) = struct.unpack("<Q", data[:8])
        if size > min(len(data) - 8, MAX_HEADER):
            raise ValueError(f"it announces a header of {size:,} bytes and has {len(data):,} in all.")
        header = json.loads(data[8 : 8 + size])
        texts = header.pop("__metadata__", {})
        if not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("its header must hold texts.")
        checksum = texts.pop(CHECKSUM, None)
    except (struct.error, ValueError, AttributeError, TypeError, RecursionError) as error:
        if data[:1] == b"\x80" or data[:2] == b"PK":
            raise ValueError(
                f"what is saved must be a safetensors file, because a pickle can run any code when loaded; {origin} is "
                "a pickle (or what torch.save makes of one)."
            ) from error
        raise ValueError(f"what is saved must be a whole safetensors file; {origin} is not, or is damaged.") from error
    return Parts(texts, checksum, header, memoryview(data)[8 + size :])


def unpack(data: bytes, origin: str, needs_checksum: bool) -> dict[str, Tensor]:
    """The tensors of a file that is what was written.

    Arguments:
        origin: what the file is called in errors.
        needs_checksum: refuse a file without one.

    Raises:
        ValueError: it is no safetensors file, or is damaged.
    """
    parts = take_apart(data, origin)
    if parts.checksum is None and needs_checksum:
        raise ValueError(f"a file must carry its checksum, {CHECKSUM}; {origin} has none: it is damaged, or not ours.")
    if parts.checksum is not None and parts.checksum != _checksum(parts):
        raise ValueError(
            f"a file must be whole and as it was written; {origin} is truncated or damaged: its {CHECKSUM} is another."
        )
    try:
        return read_tensors(data)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the file must be whole; {origin} is truncated or damaged: {error}.") from error


def migrated(header: dict[str, Any], newest: int, steps: Migrations, origin: str) -> dict[str, Any]:
    """A header of any schema so far as one of the newest.

    Arguments:
        header: with its number under `schema`.
        newest: the schema that is read.
        steps: one for each schema before it.

    Raises:
        ValueError: it has no schema, or one of a later version of l2o.
    """
    schema = header.get("schema")
    if type(schema) is not int or not 1 <= schema <= newest:
        raise ValueError(
            f"the schema must be one of 1 to {newest}, which this version of l2o reads; {origin} has {schema!r}, "
            f"written by l2o {header.get('l2o', 'of an unknown version')} (a newer l2o may read it: "
            "pip install --upgrade l2o)."
        )
    for step in range(schema, newest):
        header = steps[step](header)
    return {**header, "schema": newest}


def _checksum(parts: Parts) -> str:
    digest = hashlib.sha256(json.dumps([parts.texts, parts.tensors], sort_keys=True).encode())
    digest.update(parts.payload)
    return digest.hexdigest()

"""Arrays from the files of other libraries: .npz and .npy of NumPy, msgpack of flax. Nothing in a file is executed."""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from l2o.files import read_file

Arrays = dict[str, np.ndarray]
"""By dotted name; the one array of a .npy file is called ''."""

SUFFIXES = (".npz", ".npy", ".state", ".msgpack")
NUMBERS = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
MAX_DEPTH = 32
MAX_BYTES = 1 << 30
"""Of the arrays of a file once unpacked; a few bytes may claim any number."""

DAMAGES = (
    *(ValueError, TypeError, OSError, EOFError, KeyError, IndexError, OverflowError, MemoryError, RuntimeError),
    *(SyntaxError, tokenize.TokenError, struct.error, zipfile.BadZipFile, zlib.error),
)
"""What NumPy and the reader below raise at what is not whole: NumPy parses headers, NotImplementedError included."""


@contextmanager
def damage_told(path: Path, wanted: str) -> Iterator[None]:
    """Inside, whatever tells of a damaged file becomes one ValueError: `path` must be `wanted`."""
    try:
        yield
    except DAMAGES as error:
        raise ValueError(f"{path} must be {wanted}; it is not, or is damaged: {error}") from error


def read_arrays(path: Path, only: Collection[str] | None = None, texts: bool = False) -> Arrays:
    """All arrays of a file, with what names its suffix gives it.

    Sizes are checked before anything is allocated for them.

    Arguments:
        only: read these, which must all be there; None for all.
        texts: whether arrays may hold texts and truth values as well as numbers.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not whole, or holds something else than arrays of numbers.
    """
    data = read_file(path, MAX_BYTES)
    with damage_told(path, f"a whole {path.suffix} file of plain arrays, because pickles can run any code"):
        is_numpy = path.suffix in (".npz", ".npy")
        found = _read_numpy(data, only) if is_numpy else _flattened(_Reader(data).whole())
    if missing := sorted(set(only or ()) - found.keys()):
        raise ValueError(f"{path} must hold the arrays {', '.join(sorted(only or ()))}; it has no {missing}.")
    found = {name: found[name] for name in found if only is None or name in only}
    for name, array in found.items():
        if array.dtype.name not in NUMBERS and not (texts and array.dtype.kind in "USb"):
            raise ValueError(f"arrays must hold numbers, for they are weights; {name!r} of {path} holds {array.dtype}.")
    return found


def _read_numpy(data: bytes, only: Collection[str] | None) -> Arrays:
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return {"": _read_npy(data)}
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        members = {_dotted(member.filename.removesuffix(".npy")): member for member in packed.infolist()}
        chosen = {name: member for name, member in members.items() if only is None or name in only}
        if others := [member.filename for member in chosen.values() if not member.filename.endswith(".npy")]:
            raise ValueError(f"it holds {others}, which are no arrays.")
        size = sum(member.file_size for member in chosen.values())
        if size > MAX_BYTES:
            raise ValueError(f"it unpacks to {size:,} bytes, of at most {MAX_BYTES:,}.")
        return {name: _read_npy(packed.read(member)) for name, member in chosen.items()}


def _read_npy(data: bytes) -> np.ndarray:
    """The array of a .npy file (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html)."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"it holds an array of format {version}, not (1, 0) or (2, 0).")
    shape, by_columns, dtype = readers[version](stream)
    if dtype.hasobject or dtype.itemsize == 0 or min(shape, default=0) < 0:
        raise ValueError(f"it holds an array of {dtype} and shape {shape}, which is no plain one.")
    count, rest = math.prod(shape), len(data) - stream.tell()
    if rest != count * dtype.itemsize:
        raise ValueError(f"an array of {dtype} and shape {shape} has {rest:,} bytes.")
    flat = np.frombuffer(data, dtype, offset=stream.tell()) if count else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if by_columns else "C").copy()


def _flattened(tree: Any, prefix: str = "") -> Arrays:
    if isinstance(tree, np.ndarray):
        return {prefix: tree}
    if not isinstance(tree, dict):
        raise ValueError(f"{prefix!r} is a {type(tree).__name__}, not an array.")
    found: Arrays = {}
    for key, child in tree.items():
        found |= _flattened(child, f"{prefix}.{_dotted(str(key))}".lstrip("."))
    return found


def _dotted(name: str) -> str:
    return name.replace("/", ".")


class _Reader:
    """A reader of msgpack (https://github.com/msgpack/msgpack/blob/master/spec.md), as flax writes trees of arrays:
    extension 1 is an array, itself msgpack of [shape, dtype, bytes].

    Arguments:
        data: the file.
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def whole(self, depth: int = 0) -> Any:
        """The one value that the bytes hold."""
        value = self.value(depth)
        if self.at != len(self.data):
            raise ValueError(f"there are {len(self.data) - self.at} bytes after its end.")
        return value

    def value(self, depth: int) -> Any:
        """The next value: a dict, list, string, number, bytes, None or array."""
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep.")
        tag = self.take(1)[0]
        if tag < 0x80:
            return tag
        if tag < 0x90:
            return self.mapping(tag & 0x0F, depth)
        if tag < 0xA0:
            return self.sequence(tag & 0x0F, depth)
        if tag < 0xC0:
            return self.take(tag & 0x1F).decode()
        if tag >= 0xE0:
            return tag - 0x100
        return self.tagged(tag, depth)

    def tagged(self, tag: int, depth: int) -> Any:
        """The value after a tag of a byte of its own."""
        if tag in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[tag]
        if tag in (0xC4, 0xC5, 0xC6):
            return self.take(self.number("BHI"[tag - 0xC4]))
        if tag in (0xC7, 0xC8, 0xC9):
            return self.extension(self.number("BHI"[tag - 0xC7]), depth)
        if 0xCA <= tag <= 0xD3:
            return self.number("fdBHIQbhiq"[tag - 0xCA])
        if 0xD4 <= tag <= 0xD8:
            return self.extension(1 << (tag - 0xD4), depth)
        if tag in (0xD9, 0xDA, 0xDB):
            return self.take(self.number("BHI"[tag - 0xD9])).decode()
        if tag in (0xDC, 0xDD):
            return self.sequence(self.number("HI"[tag - 0xDC]), depth)
        if tag in (0xDE, 0xDF):
            return self.mapping(self.number("HI"[tag - 0xDE]), depth)
        raise ValueError(f"byte {tag:#x} at {self.at - 1} begins nothing.")

    def mapping(self, size: int, depth: int) -> dict[str, Any]:
        """`size` keys, which are strings, and values."""
        found: dict[str, Any] = {}
        for _ in range(size):
            key = self.value(depth + 1)
            if not isinstance(key, str) or key in found:
                raise ValueError(f"its keys are not different strings; {key!r}.")
            found[key] = self.value(depth + 1)
        return found

    def sequence(self, size: int, depth: int) -> list[Any]:
        """`size` values."""
        return [self.value(depth + 1) for _ in range(size)]

    def extension(self, size: int, depth: int) -> np.ndarray:
        """An array, the only extension that is read."""
        code, data = self.take(1)[0], self.take(size)
        if code != 1:
            raise ValueError(f"it holds an extension of type {code}, not an array (1).")
        body = _Reader(data).whole(depth + 1)
        if not isinstance(body, list) or [type(x) for x in body] != [list, str, bytes]:
            raise ValueError(f"it holds an array that is not shape, dtype and bytes; {body!r}.")
        shape, dtype, raw = body
        if dtype not in NUMBERS or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ValueError(f"it holds an array of {dtype!r} and shape {shape}.")
        if len(raw) != math.prod(shape) * np.dtype(dtype).itemsize:
            raise ValueError(f"an array of {dtype} and shape {shape} has {len(raw)} bytes.")
        return np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")).reshape(shape).astype(dtype)

    def number(self, code: str) -> Any:
        """A number in network order, of the type that `struct` calls so."""
        return struct.unpack(">" + code, self.take(struct.calcsize(code)))[0]

    def take(self, size: int) -> bytes:
        """The next bytes."""
        if self.at + size > len(self.data):
            raise ValueError(f"it ends after {len(self.data)} bytes, where {self.at + size} are needed.")
        self.at += size
        return self.data[self.at - size : self.at]

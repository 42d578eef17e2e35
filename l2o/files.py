"""Files read whole, up to a limit, and files written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

MAX_BYTES = 1 << 32
"""Of a file that is read into memory, where its reader has no smaller limit."""


def read_file(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it is a folder, a device or a pipe, or longer than `max_bytes`; nothing of it is read then.
    """
    if not path.exists():
        raise FileNotFoundError(f"a file to be read must exist; there is nothing at {path}.")
    if not path.is_file():
        raise ValueError(f"what is read must be a regular file, because others may have no end; {path} is none.")
    size = path.stat().st_size
    if size > max_bytes:
        raise ValueError(
            f"a file of this kind must have at most {max_bytes:,} bytes, because it is read into memory; {path} has "
            f"{size:,}."
        )
    return path.read_bytes()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, flushed to disk; its folder is made.

    A link that stands at `path` is replaced by the file; what it leads to is left as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # of a process that was killed and had this number, or a link that somebody laid
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed have left of `write_atomically` in a folder that nobody else writes to."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)

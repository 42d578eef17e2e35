"""Where data files come from: a folder of the user's, the cache, or the network, checked by checksum."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Remote:
    """A file on the network.

    Arguments:
        name: path of the file below the cache folder.
        url: where it is.
        checksum: "sha256:..." or "md5:...".
    """

    name: str
    url: str
    checksum: str


def data_folders(root: str | None = None) -> list[Path]:
    """Folders searched for data files: `root`, then $L2O_DATA, then the cache."""
    named = [root, os.environ.get("L2O_DATA")]
    return [Path(folder).expanduser() for folder in named if folder] + [cache_folder()]


def cache_folder() -> Path:
    """Where downloads are kept: $L2O_CACHE, or ~/.cache/l2o."""
    return Path(os.environ.get("L2O_CACHE") or "~/.cache/l2o").expanduser() / "data"


def find(names: Sequence[str], root: str | None = None) -> Path | None:
    """The first of `names` that exists, folder by folder."""
    candidates = (folder / name for folder in data_folders(root) for name in names)
    return next((path for path in candidates if path.is_file()), None)


def locate(remote: Remote, names: Sequence[str], root: str | None = None) -> Path:
    """A file found under one of `names`, else downloaded. Files found in a folder of the user's are trusted."""
    found = find(names, root)
    if found is not None:
        return found
    try:
        return download(remote)
    except FileNotFoundError as error:
        folders = " or ".join(map(str, data_folders(root)))
        raise FileNotFoundError(
            f"{error} It was looked for in {folders}, as {' or '.join(names)}. Without a network, fetch it elsewhere, "
            "put it under one of these names into a folder, and name that folder by root= or the environment variable "
            "L2O_DATA (`export L2O_DATA=FOLDER`)."
        ) from error


def download(remote: Remote) -> Path:
    """The file in the cache, fetched if it is not there. It appears whole and checked, or not at all.

    Raises:
        FileNotFoundError: the network does not give it.
        ValueError: what came has another checksum.
    """
    target = cache_folder() / remote.name
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(_chunks(remote))
            file.flush()
            os.fsync(file.fileno())
        check(Path(name), remote)
        os.chmod(name, 0o644)  # a cache may be shared
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)
    return target


def _chunks(remote: Remote) -> Iterator[bytes]:
    request = urllib.request.Request(remote.url, headers={"User-Agent": "l2o"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            while chunk := response.read(1 << 20):
                yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise FileNotFoundError(
            f"{remote.name} is not on this machine, and {remote.url} does not give it ({error})."
        ) from error


def check(path: Path, remote: Remote) -> None:
    """Raise ValueError unless the file has the checksum of `remote`."""
    kind, expected = remote.checksum.split(":")
    digest = hashlib.new(kind, path.read_bytes()).hexdigest()
    if digest != expected:
        raise ValueError(
            f"the {kind} of {remote.url} must be {expected}, or the data are not those that results were published "
            f"on; got {digest}. Nothing was kept."
        )

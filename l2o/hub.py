"""The Hugging Face Hub: trained modules by `org/name`, down and up; the only import of huggingface_hub.

A repository there holds a saved module under the name it has in a run's folder, and a card. What has been loaded once
is in huggingface_hub's cache, and loads again without a network. Only that one file is fetched, and like every file it
is read without executing anything.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from l2o.files import MAX_BYTES

FILES = ("rule.safetensors", "learner.safetensors")
"""What is looked for in a repository."""


def is_name(text: str) -> bool:
    """Whether a text has the form `org/name` or `org/name@revision`."""
    part = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}"
    return re.fullmatch(rf"{part}/{part}(@[\w./-]+)?", text) is not None and not text.endswith(".safetensors")


def fetch(name: str) -> Path:
    """The file of a module on the Hub, from the cache if it is there and new enough, or if there is no network.

    Arguments:
        name: `org/name`, or `org/name@revision` for a branch, a tag or a commit.

    Raises:
        FileNotFoundError: there is no such repository, or it is neither in the cache nor to be had.
        ValueError: it holds no module, or one too large.
        ImportError: huggingface_hub is missing.
    """
    hub = _library(f"{name} is no path here, and to look for it on the Hugging Face Hub")
    repository, _, revision = name.partition("@")
    where: dict[str, Any] = {"repo_id": repository, "revision": revision or None, "endpoint": _endpoint()}
    for file in FILES:
        try:
            _check_size(hub, file, where)
            return Path(hub.hf_hub_download(filename=file, etag_timeout=10, **where))
        except hub.errors.LocalEntryNotFoundError as error:  # also an EntryNotFoundError, so it comes first
            if file == FILES[-1]:
                raise FileNotFoundError(
                    f"a name must be a path here, or in the Hub's cache, or the Hub within reach; {name} is neither: "
                    f"{_first_line(error)}"
                ) from error
        except hub.errors.EntryNotFoundError as error:
            if file == FILES[-1]:
                raise ValueError(f"a repository must hold {' or '.join(FILES)}; {name} does not.") from error
        except (hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError) as error:
            raise FileNotFoundError(
                f"a name must be a path here or a repository on the Hub; {name} is neither, or you may not see it: "
                f"{_first_line(error)}"
            ) from error
    raise AssertionError("the last file returns or raises")


def upload(folder: Path, name: str, private: bool = False, token: str | None = None, message: str = "") -> str:
    """Put a folder into a repository on the Hub, which is made if need be.

    Returns:
        where it can be seen.

    Raises:
        ImportError: huggingface_hub is missing.
        huggingface_hub.errors.HfHubHTTPError: the Hub refuses, as where the token may not write.
    """
    api = _library("to push to the Hugging Face Hub").HfApi(endpoint=_endpoint(), token=token)
    where = api.create_repo(name, private=private, exist_ok=True)
    api.upload_folder(repo_id=name, folder_path=folder, commit_message=message or "l2o: a trained module")
    return str(where)


def _check_size(hub: Any, file: str, where: dict[str, Any]) -> None:
    """Raise a ValueError if the file is too large, before any of it comes; without a network nothing comes."""
    if hub.constants.HF_HUB_OFFLINE:
        return
    address = hub.hf_hub_url(where["repo_id"], file, revision=where["revision"], endpoint=where["endpoint"])
    try:
        size = hub.get_hf_file_metadata(address, timeout=10).size or 0
    except Exception:  # no network, no such file, no right to see it: fetching tells better
        return
    if size > MAX_BYTES:
        raise ValueError(f"{file} must have at most {MAX_BYTES:,} bytes; on {where['repo_id']} it has {size:,}.")


def _endpoint() -> str | None:
    """Another Hub than the public one, as huggingface_hub reads it when it is imported."""
    return os.environ.get("HF_ENDPOINT")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _library(why: str) -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise ImportError(f"{why}, huggingface_hub is needed: pip install 'l2o[hub]'.") from error
    return huggingface_hub

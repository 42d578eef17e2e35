"""Names and paths -> trained optimizers and learners; the only lookup by string.

The module itself can be called: `l2o.load("adam")` and `l2o.load.load("adam")` are the same, so `l2o.load` means the
function, whether or not something has imported the submodule of that name; `l2o.load.register` is there as well.
"""

from __future__ import annotations

import difflib
import inspect
import os
import sys
import types
from importlib import resources
from pathlib import Path
from typing import Any

from torch import nn

from l2o import hub
from l2o.files import read_file, write_atomically
from l2o.released import SUFFIXES, load_released
from l2o.rules.base import UpdateRule
from l2o.saved import Card, classes, from_bytes, read_card, register, to_bytes

__all__ = ["Card", "card", "is_untrained", "load", "names", "recipe_file", "register", "save"]

SUFFIX = ".safetensors"
RECIPE = ".yaml"
RUN_FILE, LEARNER_FILE = "rule" + SUFFIX, "learner" + SUFFIX
"""What `load` takes from the folder of a run that trained a rule, or a learner."""


def load(name_or_path: str | os.PathLike[str], **config: Any) -> Any:
    """A trained module by name or path, or a fresh rule by name.

    Arguments:
        name_or_path: a name: of an optimizer shipped with the package, or of a rule class (`sgd`, `adam`, `lstm`, ...;
            the rule is then as its constructor makes it, a learned one untrained). Otherwise a saved file, the folder
            of a meta-training run, or weights that others have released (see `l2o.released`); write './adam' for one
            that is called like a rule. `org/name` that is no path here is a repository of the Hugging Face Hub, and
            `org/name@revision` one of its versions.
        config: constructor arguments, for a fresh rule or released weights only.

    Raises:
        FileNotFoundError: no such path, and nothing on the Hub or in its cache.
        ValueError: unknown name, or a file that is not a whole and known module.
        ImportError: it is no path, and for the Hub huggingface_hub is missing.
    """
    if not _is_path(name_or_path):
        name = str(name_or_path)
        if name not in _shipped():
            return _fresh(name, config)
        data, origin = (_weights() / (name + SUFFIX)).read_bytes(), name
    else:
        path = _file_of(_here(name_or_path))
        if path.suffix in SUFFIXES:
            return load_released(path, **config)
        data, origin = read_file(path), str(path)
    if config:
        raise ValueError(
            "arguments are for a fresh rule only, or released weights, because a saved one has its own; got "
            f"{sorted(config)} for {origin}."
        )
    return from_bytes(data, origin)


def save(module: nn.Module, path: str | os.PathLike[str], **metadata: Any) -> None:
    """Write a module so that `load` gives an equal one; the file appears whole or not at all.

    Arguments:
        module: of a class that `l2o` exports or that was registered, with its constructor's arguments in `config`.
        path: ends in `.safetensors`; its folder is made.
        metadata: anything JSON can hold; `card` reads it.

    Raises:
        ValueError: the module could not be loaded again.
        OSError: the disk is full or the folder cannot be written; what stood at `path` before is unharmed.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"a saved module must be named *{SUFFIX}, so that all see what it is; got {path}.")
    write_atomically(path, to_bytes(module, metadata))


def card(path: str | os.PathLike[str]) -> Card:
    """Class, constructor arguments and metadata of a saved module or run folder; errors as `load`."""
    file = _file_of(Path(path))
    return read_card(read_file(file), str(file))


def names() -> list[str]:
    """Every name that `load` knows: shipped optimizers, then rules that it makes afresh."""
    return sorted(_shipped()) + sorted(_fresh_classes())


def recipe_file(name: str) -> Path:
    """Settings of `l2o meta-train`, or of `l2o agent train`, that come with the package, as YAML.

    Raises:
        ValueError: unknown name.
    """
    files = {file.name.removesuffix(RECIPE): file for file in _weights().iterdir() if file.name.endswith(RECIPE)}
    if name not in files:
        raise ValueError(
            f"a recipe must be one of {', '.join(sorted(files))}, which come with the package; got {name!r}."
        )
    return Path(str(files[name]))


def is_untrained(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether `load` would give a learned rule as its constructor makes it, which nobody has trained."""
    if _is_path(name_or_path) or str(name_or_path) in _shipped():
        return False
    cls = _fresh_classes().get(str(name_or_path))
    return cls is not None and cls.__module__ != "l2o.rules.hand_designed"


def _is_path(name_or_path: str | os.PathLike[str]) -> bool:
    if not isinstance(name_or_path, str):
        return True
    if name_or_path.endswith((SUFFIX, *SUFFIXES)) or any(s in name_or_path for s in (os.sep, os.altsep) if s):
        return True
    return name_or_path not in names() and Path(name_or_path).exists()


def _here(name_or_path: str | os.PathLike[str]) -> Path:
    """A path as it is, or where what the Hub has under that name lies."""
    path = Path(name_or_path)
    if isinstance(name_or_path, str) and not path.exists() and hub.is_name(name_or_path):
        return hub.fetch(name_or_path)
    return path


def _file_of(path: Path) -> Path:
    path = path.expanduser()
    if not path.exists():
        raise FileNotFoundError(f"a path must lead to a saved module or a run folder; there is nothing at {path}.")
    if not path.is_dir():
        return path
    for name in (RUN_FILE, LEARNER_FILE):
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(
        f"a run folder must hold {RUN_FILE} or {LEARNER_FILE}, written when training saves; {path} does not."
    )


def _weights() -> Any:
    return resources.files("l2o") / "weights"


def _shipped() -> set[str]:
    files = _weights().iterdir() if _weights().is_dir() else ()
    return {file.name.removesuffix(SUFFIX) for file in files if file.name.endswith(SUFFIX)}


def _fresh_classes() -> dict[str, type[nn.Module]]:
    """Rules whose constructor needs no arguments, by class name in lower case without `Rule`."""
    return {
        name.removesuffix("Rule").lower(): cls
        for name, cls in classes().items()
        if issubclass(cls, UpdateRule) and not _needs_arguments(cls)
    }


def _needs_arguments(cls: type[nn.Module]) -> bool:
    _, *parameters = inspect.signature(cls.__init__).parameters.values()  # without self
    return any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def _fresh(name: str, config: dict[str, Any]) -> nn.Module:
    cls = _fresh_classes().get(name)
    if cls is not None:
        return cls(**config)
    close = difflib.get_close_matches(name.lower(), names(), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"a name must be one of {', '.join(names())}, or else a path; got {name!r}.{hint}")


class _CallableModule(types.ModuleType):
    def __call__(self, name_or_path: str | os.PathLike[str], **config: Any) -> Any:
        return load(name_or_path, **config)


sys.modules[__name__].__class__ = _CallableModule

"""Names and paths -> trained optimizers and learners; the only lookup by string.

A module is one safetensors file: its tensors, and in the header a JSON of schema, class, constructor arguments and
whatever the author wants to tell. Nothing in it is executed: a class is taken from those that `l2o` exports or that
were registered, never imported by name.

The module itself can be called: `l2o.load("adam")` and `l2o.load.load("adam")` are the same, so that `l2o.load` works
whether or not something has imported the submodule of that name.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import os
import struct
import sys
import types
from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import Tensor, nn

SCHEMA = 1
"""Version of the header; raised when older files need a migration."""

SUFFIX = ".safetensors"
RUN_FILE = "rule" + SUFFIX
"""What `l2o.load` takes from the folder of a meta-training run."""

_HOMES = ("l2o.rules", "l2o.learners")
_registered: dict[str, type[nn.Module]] = {}

M = TypeVar("M", bound=type[nn.Module])


class Card(NamedTuple):
    """What the header of a saved module says."""

    class_name: str
    config: dict[str, Any]
    metadata: dict[str, Any]


def load(name_or_path: str | os.PathLike[str], **config: Any) -> Any:
    """A trained module by name or path, or a fresh rule by name.

    Arguments:
        name_or_path: a name without separators: of an optimizer shipped with the package, or of a rule class (`sgd`,
            `adam`, `lstm`, ...; the rule is then as its constructor makes it, a learned one untrained). Otherwise a
            saved file, or the folder of a meta-training run.
        config: constructor arguments, for a fresh rule only.

    Raises:
        FileNotFoundError: no such path.
        ValueError: unknown name, or a file that is not a whole and known module.
    """
    if not _is_path(name_or_path):
        name = str(name_or_path)
        if name not in _shipped():
            return _fresh(name, config)
        data, origin = (_weights() / (name + SUFFIX)).read_bytes(), name
    else:
        path = _file_of(Path(name_or_path))
        data, origin = path.read_bytes(), str(path)
    if config:
        raise ValueError(
            f"arguments are for a fresh rule only, because a saved one has its own; got {sorted(config)} for {origin}."
        )
    return _rebuild(data, origin)


def save(module: nn.Module, path: str | os.PathLike[str], **metadata: Any) -> None:
    """Write a module so that `load` gives an equal one; whole or not at all.

    Arguments:
        module: of a class that `l2o` exports or that was registered, with its constructor arguments in `.config`.
        path: ends in `.safetensors`; its folder is made.
        metadata: anything JSON can hold; `card` reads it.

    Raises:
        ValueError: the module could not be loaded again.
        OSError: the disk is full or the folder cannot be written; what stood at `path` before is unharmed.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"a saved module must be named *{SUFFIX}, so that everyone sees what it is; got {path}.")
    header = {"schema": SCHEMA, **_describe(module), "metadata": metadata, "l2o": _version()}
    tensors = {name: x.detach().cpu().contiguous().clone() for name, x in module.state_dict().items()}
    try:
        data = write_tensors(tensors, {"l2o": json.dumps(header, sort_keys=True)})
    except TypeError as error:
        raise ValueError(f"config and metadata must be plain values that JSON can hold; {error}.") from error
    _rebuild(data, f"what was to be saved as {path}")
    _write_atomically(path, data)


def card(path: str | os.PathLike[str]) -> Card:
    """Class, constructor arguments and metadata of a saved module or run folder; no weights are read into a module.

    Raises:
        FileNotFoundError, ValueError: as `load`.
    """
    file = _file_of(Path(path))
    return _read_card(file.read_bytes(), str(file))


def register(cls: M) -> M:
    """Let saved files hold instances of your own class; also a decorator.

    The constructor arguments must stand in the instance's `config`, a dict.

    Raises:
        ValueError: another class has this name.
    """
    known = _classes().get(cls.__name__, cls)
    if known is not cls and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(
            f"a class name must be unique, because files name their class by it; {cls.__name__} is already "
            f"{known.__module__}.{known.__qualname__}."
        )
    _registered[cls.__name__] = cls
    return cls


def names() -> list[str]:
    """Every name that `load` knows: shipped optimizers first, then rules that it makes afresh."""
    return sorted(_shipped()) + sorted(_fresh_classes())


def is_untrained(name: str | os.PathLike[str]) -> bool:
    """Whether `load(name)` would give a learned rule that nobody has trained yet."""
    cls = None if _is_path(name) or str(name) in _shipped() else _fresh_classes().get(str(name))
    return cls is not None and cls.__module__ != "l2o.rules.hand_designed"


def _is_path(name_or_path: str | os.PathLike[str]) -> bool:
    if not isinstance(name_or_path, str):
        return True
    separators = [os.sep] if os.altsep is None else [os.sep, os.altsep]
    return name_or_path.endswith(SUFFIX) or any(s in name_or_path for s in separators)


def _file_of(path: Path) -> Path:
    path = path.expanduser()
    if path.is_dir() and not (path / RUN_FILE).is_file():
        raise FileNotFoundError(
            f"a run folder must hold {RUN_FILE}, written when meta-training saves; {path} does not."
        )
    if not path.exists():
        raise FileNotFoundError(f"a path must be a saved module or a run folder; there is nothing at {path}.")
    return path / RUN_FILE if path.is_dir() else path


def _weights() -> Any:
    return resources.files("l2o") / "weights"


def _shipped() -> set[str]:
    files = _weights().iterdir() if _weights().is_dir() else ()
    return {file.name.removesuffix(SUFFIX) for file in files if file.name.endswith(SUFFIX)}


def _classes() -> dict[str, type[nn.Module]]:
    found = dict(_registered)
    for home in _HOMES:
        exported = importlib.import_module(home)
        for name in getattr(exported, "__all__", ()):
            cls = getattr(exported, name)
            if isinstance(cls, type) and issubclass(cls, nn.Module) and not inspect.isabstract(cls):
                found[name] = cls
    return found


def _fresh_classes() -> dict[str, type[nn.Module]]:
    """Rules whose constructor needs no arguments, by class name in lower case without `Rule`."""
    from l2o.rules.base import UpdateRule

    return {
        name.removesuffix("Rule").lower(): cls
        for name, cls in _classes().items()
        if issubclass(cls, UpdateRule) and not _required(cls)
    }


def _required(cls: type[nn.Module]) -> list[str]:
    parameters = inspect.signature(cls).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]


def _fresh(name: str, config: dict[str, Any]) -> nn.Module:
    cls = _fresh_classes().get(name)
    if cls is not None:
        return cls(**config)
    close = difflib.get_close_matches(name.lower(), names(), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    hint += f" For the path write {'./' + name!r}." if Path(name).exists() else ""
    raise ValueError(f"a name must be one of {', '.join(names())}, or else a path; got {name!r}.{hint}")


def _describe(module: nn.Module) -> dict[str, Any]:
    name, config = type(module).__name__, getattr(module, "config", None)
    if _classes().get(name) is not type(module):
        raise ValueError(
            f"a saved module must be of a class that l2o exports or that `l2o.load.register` knows, because loading "
            f"imports nothing by name; got {type(module).__module__}.{name}."
        )
    if not isinstance(config, Mapping):
        raise ValueError(
            f"a saved module must carry its constructor arguments as the dict `config`, because it is rebuilt from "
            f"them; {name}.config is {config!r}."
        )
    return {"class": name, "config": {key: _encode(value) for key, value in config.items()}}


def _encode(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return {"module": _describe(value)}
    return [_encode(child) for child in value] if isinstance(value, list | tuple) else value


def _decode(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"module"}:
        return _construct(value["module"]["class"], value["module"]["config"])
    return tuple(_decode(child) for child in value) if isinstance(value, list) else value


def _rebuild(data: bytes, origin: str) -> nn.Module:
    header = _read_card(data, origin)
    try:
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn, then overwritten
            module = _construct(header.class_name, header.config)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{header.class_name} must accept the arguments of {origin}; {error}") from error
    try:
        tensors = read_tensors(data)
    except SafetensorError as error:
        raise ValueError(f"the file must be whole; {origin} is truncated or damaged: {error}.") from error
    _check_tensors(module.state_dict(), tensors, header.class_name, origin)
    module.load_state_dict(tensors)
    return module


def _construct(class_name: str, config: Mapping[str, Any]) -> nn.Module:
    classes = _classes()
    if class_name not in classes:
        raise ValueError(
            f"the class must be one of {', '.join(sorted(classes))} (register yours with `l2o.load.register`), because "
            f"loading imports nothing by name; got {class_name!r}."
        )
    return classes[class_name](**{key: _decode(value) for key, value in config.items()})


def _check_tensors(expected: dict[str, Tensor], found: dict[str, Tensor], class_name: str, origin: str) -> None:
    faults = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    faults += [f"{name} is unknown" for name in sorted(found.keys() - expected.keys())]
    for name in sorted(expected.keys() & found.keys()):
        want, got = expected[name], found[name]
        if (want.shape, want.dtype) != (got.shape, got.dtype):
            faults.append(f"{name} is {got.dtype} {tuple(got.shape)}, not {want.dtype} {tuple(want.shape)}")
    if faults:
        raise ValueError(
            f"the tensors must be those of a {class_name} with its saved arguments; in {origin} {'; '.join(faults)}."
        )


def _read_card(data: bytes, origin: str) -> Card:
    if data[:1] == b"\x80" or data[:2] == b"PK":
        raise ValueError(
            f"a saved module must be a safetensors file, because a pickle can run any code when loaded; {origin} is a "
            "pickle (or an archive of torch.save)."
        )
    try:
        (size,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + size].decode())
        text = header.get("__metadata__", {}).get("l2o")
    except (struct.error, UnicodeDecodeError, json.JSONDecodeError, AttributeError, OverflowError) as error:
        raise ValueError(f"a saved module must be a whole safetensors file; {origin} is not, or is damaged.") from error
    if text is None:
        raise ValueError(f"a saved module must be written by `l2o.save`, which adds its class; {origin} has none.")
    content = json.loads(text)
    if content.get("schema") != SCHEMA:
        raise ValueError(
            f"the schema must be {SCHEMA}, the one this version of l2o reads; {origin} has {content.get('schema')!r}, "
            f"written by l2o {content.get('l2o')}."
        )
    return Card(content["class"], content["config"], content["metadata"])


def _write_atomically(path: Path, data: bytes) -> None:
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


def _version() -> str:
    try:
        return metadata.version("l2o")
    except metadata.PackageNotFoundError:  # run from a folder, never installed
        return "unknown"


class _CallableModule(types.ModuleType):
    def __call__(self, name_or_path: str | os.PathLike[str], **config: Any) -> Any:
        return load(name_or_path, **config)


sys.modules[__name__].__class__ = _CallableModule

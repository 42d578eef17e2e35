"""A module as one safetensors file: its tensors, and in the header a JSON of schema, class and constructor arguments.

Nothing in a file is executed: its class is one of those that `l2o` exports or that were registered, never imported by
name.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping
from importlib import metadata
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from l2o.dry_run import without_memory
from l2o.tensor_file import Migrations, migrated, pack, take_apart, unpack

SCHEMA = 2
"""Version of the header; raised when older files need a migration."""

MIGRATIONS: Migrations = {1: lambda header: {"frozen": [], **header}}
"""Files of schema 1 have no checksum, and the first of them say nothing of frozen parameters."""

SPARE_BYTES, SPARE_TENSORS = 1 << 26, 1000
"""What a constructor may ask for beyond four times the bytes and fifty times the tensors of its file."""

MAX_NUMBER = 10**7
"""Of whole numbers among a constructor's arguments, which may count what it makes."""

MAX_DEPTH = 16
"""Of modules in modules, of lists in lists."""

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
        text = json.dumps(header, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"config and metadata must be plain, finite values that JSON can hold; {error}.") from error
    tensors = {name: x.detach().cpu().contiguous().clone() for name, x in module.state_dict().items()}
    data = pack(tensors, {"l2o": text})
    from_bytes(data, "this module")
    return data


def from_bytes(data: bytes, origin: str) -> nn.Module:
    """The module of a file.

    Sizes are checked first: the arguments are tried without memory, and must ask for the tensors that the file has.

    Arguments:
        origin: what the file is called in errors.

    Raises:
        ValueError: not a whole file of a known class, with the tensors that its arguments ask for.
    """
    header = _read_header(data, origin)
    card = _card_of(header, origin)
    tensors = unpack(data, origin, needs_checksum=header["from"] > 1)
    _check_tensors(_expected(card, tensors, origin, len(data)), tensors, card.class_name, origin)
    module = _made(card, tensors, origin)
    module.load_state_dict(tensors)
    for name, parameter in module.named_parameters():
        if name in card.frozen:
            parameter.requires_grad_(False)
    return module


def read_card(data: bytes, origin: str) -> Card:
    """What the header of a file says; errors as `from_bytes`."""
    return _card_of(_read_header(data, origin), origin)


def _read_header(data: bytes, origin: str) -> dict[str, Any]:
    """The header as of the newest schema, with its own schema under `from`."""
    text = take_apart(data, origin).texts.get("l2o")
    if text is None:
        raise ValueError(f"a saved module must be written by `l2o.save`, which names its class; {origin} was not.")
    try:
        header = json.loads(text, parse_constant=_refuse)
        if not isinstance(header, dict):
            raise ValueError(f"it is a {type(header).__name__}.")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the header must be JSON of a mapping; that of {origin} is not: {error}") from error
    return {**migrated(header, SCHEMA, MIGRATIONS, origin), "from": header["schema"]}


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON.")


def _card_of(header: dict[str, Any], origin: str) -> Card:
    kinds = {"class": str, "config": dict, "metadata": dict, "frozen": list}
    wrong = [name for name, kind in kinds.items() if not isinstance(header.get(name), kind)]
    if wrong or not all(isinstance(name, str) for name in header["frozen"]):
        raise ValueError(
            f"the header must give class, config, metadata and frozen names; {origin} is wrong in {wrong or 'frozen'}."
        )
    return Card(header["class"], header["config"], header["metadata"], tuple(header["frozen"]))


def _expected(card: Card, tensors: Mapping[str, Tensor], origin: str, size: int) -> dict[str, Tensor]:
    """What the arguments ask for, from a try without memory."""
    try:
        limits = 4 * size + SPARE_BYTES, 50 * len(tensors) + SPARE_TENSORS
        return _made(card, tensors, origin, limits).state_dict()
    except ValueError as error:
        if card.class_name not in _registered or not isinstance(error.__cause__, RuntimeError):
            raise
        return _made(card, tensors, origin).state_dict()  # a constructor of the user's own looks at numbers


def _made(card: Card, tensors: Mapping[str, Tensor], origin: str, limits: tuple[int, int] | None = None) -> nn.Module:
    """The module of a card, of the precision of the tensors; on the meta device where there is a limit."""
    cls = _class_named(card.class_name)

    def make() -> nn.Module:
        return cls(**_arguments(card.config))

    try:
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn, then overwritten
            module = make() if limits is None else without_memory(make, *limits)
    except Exception as error:  # whatever the class says: these are not its arguments
        raise ValueError(
            f"{card.class_name} must accept the saved arguments; in {origin} they fail: {error}"
        ) from error
    floating = [name for name, x in module.state_dict().items() if x.is_floating_point() and name in tensors]
    return module.double() if all(tensors[name].dtype == torch.float64 for name in floating) else module


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


def _arguments(config: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    """A constructor's arguments as they were; a seed counts nothing, so it may be any number."""
    return {key: child if key == "seed" else _decode(child, depth) for key, child in config.items()}


def _decode(value: Any, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f"they are nested more than {MAX_DEPTH} deep.")
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        raise ValueError(f"whole numbers must be at most {MAX_NUMBER:,} in size; got {value}.")
    if isinstance(value, dict) and set(value) == {"module"}:
        cls, config = _class_named(value["module"]["class"]), value["module"]["config"]
        return cls(**_arguments(config, depth + 1))
    if isinstance(value, dict):
        return _arguments(value, depth + 1)
    return tuple(_decode(child, depth + 1) for child in value) if isinstance(value, list) else value


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

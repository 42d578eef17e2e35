"""Builds the C++ kernels once, with the machine's own compiler, and keeps them.

The kernels use no torch headers: a build takes seconds, and fits every version of torch. They share torch's OpenMP
threads, since torch's library answers for the OpenMP symbols of whatever is loaded after it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
CHOICES = (("-march=native", "-fopenmp"), ("-mcpu=native", "-fopenmp"), ("-march=native",), ("-mcpu=native",), ())
"""Tried in this order: not every compiler knows every processor, or OpenMP."""


_off = os.environ.get("L2O_KERNELS", "1") == "0"


def wanted() -> bool:
    """Whether kernels are to be used: not under `without_kernels`, nor where the environment has L2O_KERNELS=0."""
    return not _off


@contextmanager
def without_kernels() -> Iterator[None]:
    """The readable PyTorch path inside, to compare with or to debug."""
    global _off
    before, _off = _off, True
    try:
        yield
    finally:
        _off = before


@cache
def library(name: str, **defines: int) -> ctypes.CDLL | None:
    """The kernel `name`.cpp, built with macros `defines`; None, with one warning, where it cannot be built.

    Built libraries are kept in `cache_folder()` under a name made of all that they depend on; a kept file that is no
    library is built again.
    """
    try:
        path = _built(name, defines)
        try:
            return ctypes.CDLL(str(path))
        except OSError:  # torn, say by a full disk
            path.unlink()
            return ctypes.CDLL(str(_built(name, defines)))
    except (OSError, subprocess.SubprocessError) as error:
        warnings.warn(
            f"l2o goes on without its fast kernels, several times slower, because {name}.cpp could not be built: "
            f"{error} (L2O_KERNELS=0 turns kernels and this warning off).",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def cache_folder() -> Path:
    """Where built kernels are kept: L2O_CACHE, or l2o in the user's cache folder."""
    if os.environ.get("L2O_CACHE"):
        return Path(os.environ["L2O_CACHE"])
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "l2o"
    except RuntimeError:  # a user without a home
        return Path(tempfile.gettempdir()) / f"l2o-{_user()}"


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


def _built(name: str, defines: dict[str, int]) -> Path:
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX") or "c++", "g++", "clang++"))), None)
    if compiler is None:
        raise OSError("no C++ compiler (c++, g++, clang++ or $CXX) was found")
    macros = [f"-D{key}={value}" for key, value in sorted(defines.items())]
    path = cache_folder() / f"{name}-{_key(name, compiler, macros)}.so"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.parent.stat().st_uid != _user():
        raise OSError(
            f"{path.parent} belongs to another user, whose code would be run (L2O_CACHE names another folder)"
        )
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            _compile(compiler, macros, SOURCES / f"{name}.cpp", made)
            os.replace(made, path)  # whole or not at all, whoever else builds it now
    return path


def _compile(compiler: str, macros: list[str], source: Path, target: Path) -> None:
    for choice in CHOICES:
        command = [compiler, *FLAGS, *choice, *macros, "-o", str(target), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode == 0:
            return
    raise OSError(f"{' '.join(command)} said: {done.stderr[-500:]}")


def _key(name: str, compiler: str, macros: list[str]) -> str:
    """Of all that a built library depends on: sources, flags, compiler, processor."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60).stdout
    parts = [version, _processor(), *FLAGS, *map(str, CHOICES), *macros]
    parts += [path.read_text() for path in [*sorted(SOURCES.glob("*.h")), SOURCES / f"{name}.cpp"]]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))

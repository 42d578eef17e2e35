"""Kernels are built once, kept, and done without where they cannot be built."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from l2o.kernels import build

STEP = """
import torch
from l2o.rules import MLPRule
torch.manual_seed(0)
torch.set_grad_enabled(False)
rule, params = MLPRule(), {"w": torch.ones(3, 2)}
for _ in range(2):
    print(float(rule(params, rule.init(params), params)[0]["w"].detach().sum()))
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )


def test_a_kernel_is_built_once_and_kept(tmp_path: Path) -> None:
    first = run(STEP, L2O_CACHE=str(tmp_path))
    (built,) = tmp_path.iterdir()
    time = built.stat().st_mtime_ns
    second = run(STEP, L2O_CACHE=str(tmp_path))
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == [time]
    assert first.stdout == second.stdout and not first.stderr


def test_without_a_compiler_that_works_one_warning_and_the_readable_form(tmp_path: Path) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho 'broken on purpose' >&2\nexit 1\n")
    broken.chmod(0o755)
    without = run(STEP, L2O_KERNELS="0")
    failed = run(STEP, L2O_CACHE=str(tmp_path / "cache"), CXX=str(broken))
    assert failed.stdout == without.stdout and not without.stderr
    assert failed.stderr.count("RuntimeWarning") == 1
    assert "broken on purpose" in failed.stderr and "L2O_KERNELS=0" in failed.stderr
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix == ".so"], "nothing half-made is kept"


def test_a_kept_file_that_is_no_library_is_built_again(tmp_path: Path) -> None:
    first = run(STEP, L2O_CACHE=str(tmp_path))
    (built,) = tmp_path.iterdir()
    built.write_bytes(b"torn")
    again = run(STEP, L2O_CACHE=str(tmp_path))
    assert again.stdout == first.stdout and not again.stderr
    assert built.stat().st_size > 1000


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("L2O_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "_user", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(OSError, match="belongs to another user"):
        build._built("coordinate_mlp", {"HIDDEN": 8, "HALF": 0})


def test_a_user_without_a_home_has_a_cache_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("could not determine home directory")

    for name in ("L2O_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert build.cache_folder().name.startswith("l2o-")


@pytest.mark.parametrize("name", ["vector.h", "coordinate_mlp.cpp"])
def test_the_sources_are_in_the_package(name: str) -> None:
    from importlib import resources

    assert (resources.files("l2o.kernels") / name).is_file()

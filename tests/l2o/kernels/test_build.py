"""Kernels are built once, kept, and done without where they cannot be built."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

STEP = """
import torch
from l2o.rules import MLPRule
torch.manual_seed(0)
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


def test_a_kept_file_that_is_no_library_is_told(tmp_path: Path) -> None:
    run(STEP, L2O_CACHE=str(tmp_path))
    (built,) = tmp_path.iterdir()
    built.write_bytes(b"torn")
    torn = run(STEP, L2O_CACHE=str(tmp_path))
    assert torn.stdout == run(STEP, L2O_KERNELS="0").stdout
    assert torn.stderr.count("RuntimeWarning") == 1


@pytest.mark.parametrize("name", ["vector.h", "coordinate_mlp.cpp"])
def test_the_sources_are_in_the_package(name: str) -> None:
    from importlib import resources

    assert (resources.files("l2o.kernels") / name).is_file()

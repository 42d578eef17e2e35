"""What is released: a package that holds what it needs, imports little, and says what it is."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import l2o

ROOT = Path(__file__).parents[2]
LATER = ("ray", "transformers", "gymnasium", "matplotlib", "tensorboard", "sklearn", "PIL", "higher", "huggingface_hub")


def test_no_large_library_is_imported_until_it_is_used():
    """Everything but the files that are there to import one, down to the command line and a loaded optimizer."""
    code = f"""
import sys, l2o
assert "torch" not in sys.modules
import l2o.agents.lifetime, l2o.estimators, l2o.learners, l2o.tasks.data, l2o.training.commands
l2o.LearnedOptimizer, l2o.MetaTrainer, l2o.load("default")
print(*({{name.split(".")[0] for name in sys.modules}} & set({LATER!r})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_optimizer_is_imported_without_torchs_compiler():
    """It takes as long to import as torch itself."""
    code = 'import sys, l2o; l2o.LearnedOptimizer; sys.exit("torch._dynamo" in sys.modules)'
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_wheel_holds_all_that_the_package_needs_and_nothing_else(tmp_path):
    pytest.importorskip("build")
    setuptools = pytest.importorskip("setuptools", "77")
    assert setuptools
    for name in ("l2o", "pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        os.symlink(ROOT / name, tmp_path / name)  # a build leaves folders where it is made
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").iterdir()
    packed = set(zipfile.ZipFile(wheel).namelist())
    wanted = {path.relative_to(ROOT).as_posix() for path in (ROOT / "l2o").rglob("*") if path.is_file()}
    wanted = {name for name in wanted if "__pycache__" not in name}
    assert wanted <= packed and "l2o/py.typed" in wanted
    assert {name.split("/")[0] for name in packed} == {"l2o", f"l2o-{l2o.__version__}.dist-info"}


def test_the_citation_says_what_the_package_says():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == l2o.__version__ and citation["cff-version"] == "1.2.0"
    assert citation["license"] == "Apache-2.0" and citation["title"].startswith("l2o")

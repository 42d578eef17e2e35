"""Does the drop-in pass PyTorch's own tests of optimizers?

    python -m benchmarks.torch_suite --file FOLDER/test/test_optim.py --record

PyTorch describes each of its optimizers by an `OptimizerInfo` and runs one suite over all. Here ours stands in their
place, around several rules. The suite is not in torch's wheel and not in this repository: it is `test/test_optim.py` of
PyTorch's source, of any version near the one installed (Debian: `apt-get source --download-only pytorch`).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
import types
import unittest
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.record import write
from l2o import LearnedOptimizer

NAME = "LearnedOptimizer"
WHOLE_TENSORS = (
    "the rule reads each tensor as a whole: a complex one as one tensor of pairs, which are not its two halves"
)
EXCEPTIONS = {
    ("test_complex_2d", "default"): WHOLE_TENSORS,
}
"""Tests that a rule need not pass, and why; one that passes after all must go from here."""
INPUTS: tuple[dict[str, Any], ...] = (
    {},
    {"lr": 0.01},
    {"weight_decay": 0.1},
    {"maximize": True},
    {"maximize": True, "weight_decay": 0.1},
    {"total_steps": 100},
)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        file: PyTorch's `test/test_optim.py`.
        rules: what the drop-in is tried with, by name; trained, as an optimizer must go downhill.
        only: run tests whose names have this in them.
        record: keep the rows in benchmarks/results.
    """

    file: Path
    rules: tuple[str, ...] = ("adam", "default", "lstm-digits")
    only: str = ""
    record: bool = False


class Outcome(unittest.TestResult):
    """How every test ended: passed, skipped or failed, and what was said."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, tuple[str, str]] = {}

    def addSuccess(self, test: Any) -> None:  # noqa: N802 unittest's name
        self.found[test._testMethodName] = ("passed", "")

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802 unittest's name
        self.found[test._testMethodName] = ("skipped", reason)

    def addFailure(self, test: Any, error: Any) -> None:  # noqa: N802 unittest's name
        self.found[test._testMethodName] = ("failed", self._exc_info_to_string(error, test))

    addError = addFailure  # noqa: N815


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a rule."""
    digest = hashlib.sha256(config.file.read_bytes()).hexdigest()
    for rule in config.rules:
        outcome = Outcome()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tests(config.file, rule, config.only).run(outcome)
        row: dict[str, Any] = {"rule": rule, "file_sha256": digest, "passed": 0, "skipped": {}, "excepted": {}}
        row["failed"] = []
        for name, (how, said) in outcome.found.items():
            reason = EXCEPTIONS.get((name.split(f"_{NAME}")[0], rule))
            if how == "skipped":
                row["skipped"][name] = said
            elif (how == "failed") == (reason is not None):
                row["passed"] += reason is None
                row["excepted"] |= {} if reason is None else {name: reason}
            else:
                row["failed"].append(name)
                print(name, said or "passes, so it is no exception")
        print(f"{rule}: " + ", ".join(f"{n if isinstance(n, int) else len(n)} {k}" for k, n in list(row.items())[2:]))
        yield row


def tests(file: Path, rule: str, only: str = "") -> unittest.TestSuite:
    """The suite's tests of the drop-in around a rule.

    Raises:
        ValueError: the file is not PyTorch's.
    """
    from torch.testing._internal import common_optimizers

    info = common_optimizers.OptimizerInfo(
        _around(rule),
        optim_inputs_func=lambda device, dtype=None: [
            common_optimizers.OptimizerInput(params=None, kwargs=dict(kwargs), desc=str(kwargs)) for kwargs in INPUTS
        ],
        optim_error_inputs_func=common_optimizers.get_error_inputs_for_all_optims,
        supported_impls=(),
        has_capturable_arg=False,
        supports_complex=True,
    )
    common_optimizers.optim_db[:] = [info]  # in place: the file copies its entries
    module, suite = _imported(file), unittest.TestSuite()
    for name, cls in vars(module).items():
        if re.fullmatch(r"TestOptimRenewed[A-Z]+", name):
            for test in unittest.defaultTestLoader.loadTestsFromTestCase(cls):
                if f"_{NAME}_" in test.id() and only in test.id():
                    suite.addTest(test)
    if not suite.countTestCases():
        raise ValueError(f"the file must be PyTorch's test/test_optim.py, which has TestOptimRenewed; got {file}.")
    return suite


def _around(rule: str) -> type[LearnedOptimizer]:
    class Around(LearnedOptimizer):
        def __init__(self, params: Any, **kwargs: Any) -> None:
            super().__init__(params, rule, **kwargs)

    Around.__name__ = Around.__qualname__ = NAME
    return Around


class _Anything(types.ModuleType):
    """A module that has every name, for other test files that the suite's file imports and we do not run."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


def _imported(file: Path) -> types.ModuleType:
    for name in ("optim", "optim.test_optim", "optim.test_lrscheduler", "optim.test_swa_utils"):
        sys.modules[name] = _Anything(name)
    arguments, sys.argv = sys.argv, [str(file)]  # torch's test utilities parse them
    try:
        while True:
            spec = importlib.util.spec_from_file_location("test_optim", file)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules["test_optim"] = module
            try:
                spec.loader.exec_module(module)
                return module
            except ImportError as error:  # a decorator that this torch's test utilities no longer have
                missing = re.match(r"cannot import name '(\w+)' from '(torch\.testing[\w.]+)'", str(error))
                if missing is None:
                    raise
                setattr(importlib.import_module(missing[2]), missing[1], lambda test=None, *args, **kwargs: test)
    finally:
        sys.argv = arguments


def main(config: Config) -> None:
    """Run all, and write the rows where they are wanted; exit 1 if a test fails that should not."""
    torch.set_num_threads(1)
    rows = list(run(config))
    if config.record:
        print(write("torch_suite", config, rows))
    sys.exit(any(row["failed"] for row in rows))


if __name__ == "__main__":
    main(tyro.cli(Config))

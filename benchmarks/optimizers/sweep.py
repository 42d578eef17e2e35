"""All runs of the comparison: kept in files, chosen by sweeps, with an estimate of the time that remains."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.optimizers.measures import best_of, final
from benchmarks.optimizers.methods import OURS, Method
from benchmarks.optimizers.problem import Problem
from benchmarks.optimizers.train import Curve, Run, train
from benchmarks.record import commit, machine
from l2o.files import write_atomically

SWEEP_SEED = 1000
"""Rates are chosen on seeds from here on, which are not reported."""

SLOW = frozenset({("wide-mlp", "muon")})
"""Left out unless asked for: to orthogonalise matrices of 1024 by 1024 takes over a second a step, and hours in all."""

SWEPT = 6
"""Rates of a sweep, on average; only for estimates of time."""


@dataclass(frozen=True)
class Result:
    """A method on a problem at its chosen rate, over the seeds of the report.

    Arguments:
        half_decades: the rate.
        swept: final loss of every rate that was tried.
        losses, validation: (seeds, steps) and (seeds, evaluations).
        half: the same losses of runs that were planned for half the steps; ours only.
        machines: where the runs were made, and with which torch, as far as they tell.
    """

    problem: str
    method: str
    half_decades: int
    swept: dict[int, float]
    losses: np.ndarray
    validation: np.ndarray
    half: np.ndarray | None
    num_parameters: int
    model_ms: float
    optimizer_ms: float
    machines: tuple[str, ...] = ()


@dataclass
class Store:
    """Runs in a folder, one file each, named by the hash of what the run depends on; what is there is not run again.

    Arguments:
        folder: of the files.
        tell: is called with a line before every run that is made.
        remaining: seconds that are still to be spent, as far as that can be told.
        seconds, machines: that runs so far took, and where they were made, by problem and method.
    """

    folder: Path
    tell: Callable[[str], None] = print
    remaining: Callable[[], str] = lambda: ""
    seconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    machines: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    def path(self, run: Run) -> Path:
        """The file of a run."""
        text = json.dumps(run.settings(), sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self.folder / type(run.problem).__name__ / f"{key}.npz"

    def get(self, run: Run) -> Curve:
        """The curve of a run, from its file or made now.

        Raises:
            ValueError: it is not there, and its device is the name of a GPU.
        """
        path = self.path(run)
        if not path.exists():
            if run.device.split(":")[0] not in ("cpu", "cuda"):
                raise ValueError(
                    f"runs on {run.device!r} can only be found, not made, and {path} is not there; give cpu or cuda."
                )
            self.tell(f"{_title(run)}{self.remaining()}")
            start = time.monotonic()
            curve = train(run)
            _write(path, run, curve, time.monotonic() - start)
        curve, told = _read(path)
        pair = type(run.problem).__name__, run.method.name
        self.seconds.setdefault(pair, []).append(float(told["seconds"]))
        self.machines.setdefault(pair, set()).update([told["machine"]] if "machine" in told else [])
        return curve


def _title(run: Run) -> str:
    return f"{type(run.problem).__name__}, {run.method.name}, rate 10^{run.half_decades / 2:g}, seed {run.seed}"


def _write(path: Path, run: Run, curve: Curve, seconds: float) -> None:
    where = f"{machine()['machine']}, torch {torch.__version__}"
    told = {"settings": run.settings(), "commit": commit(), "machine": where, "seconds": seconds}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, told=json.dumps(told), **curve._asdict())
    write_atomically(path, buffer.getvalue())


def _read(path: Path) -> tuple[Curve, dict[str, Any]]:
    with np.load(path, allow_pickle=False) as file:
        fields: dict[str, Any] = {name: file[name] for name in Curve._fields}
        told = json.loads(str(file["told"]))
    return Curve(**{k: v if v.ndim else v.item() for k, v in fields.items()}), told


@dataclass
class Comparison:
    """Every method on every problem.

    Arguments:
        problems, methods: by name.
        store: where runs are kept.
        num_seeds: of the report.
        num_sweep_seeds: runs by which a rate is chosen.
        slow: whether what is slow is run as well.
        swept: sweeps that were made before, by problem and method; they are not made again.
    """

    problems: dict[str, Problem]
    methods: dict[str, Method]
    store: Store
    num_seeds: int = 5
    num_sweep_seeds: int = 1
    slow: bool = False
    swept: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)
    left: dict[tuple[str, str], int] = field(default_factory=dict)

    def run(self) -> list[Result]:
        """Problem by problem, so that what is stopped has some of them whole."""
        pairs = [pair for pair in product(self.problems, self.methods) if self.slow or pair not in SLOW]
        self.left = {pair: self.num_runs(pair[1]) for pair in pairs}
        self.store.remaining = self.remaining
        found = []
        for pair in pairs:
            found.append(self.compare(*pair))
            self.left[pair] = 0
        return found

    def compare(self, problem: str, method: str) -> Result:
        """Choose the rate if there is one to choose, then the runs of the report."""
        one, name = self.methods[method], (problem, method)
        steps, start = self.problems[problem].steps, len(self._seen(*name))
        best, swept = one.fixed, {}

        def get(half_decades: int, seed: int, steps: int) -> Curve:
            curve = self.store.get(Run(self.problems[problem], one, half_decades, seed, steps))
            self.left[name] = max(1, self.num_runs(method) - len(self._seen(*name)) + start)
            return curve

        if name in self.swept:
            swept = self.swept[name]
            best = min(sorted(swept), key=swept.__getitem__)
        elif one.grid:
            seeds = range(SWEEP_SEED, SWEEP_SEED + self.num_sweep_seeds)
            best, swept = best_of(one.grid, lambda k: float(np.mean([final(get(k, s, steps).losses) for s in seeds])))
        curves = [get(best, seed, steps) for seed in range(self.num_seeds)]
        shorter = [get(best, seed, steps // 2) for seed in range(self.num_seeds)] if method in OURS else []
        return Result(
            problem,
            method,
            best,
            swept,
            np.stack([curve.losses for curve in curves]),
            np.stack([curve.validation for curve in curves]),
            np.stack([curve.losses for curve in shorter]) if shorter else None,
            curves[0].num_parameters,
            float(np.median([curve.model_ms for curve in curves])),
            float(np.median([curve.optimizer_ms for curve in curves])),
            tuple(sorted(self.store.machines[type(self.problems[problem]).__name__, one.name])),
        )

    def num_runs(self, method: str) -> int:
        """Runs of a method on a problem, if its sweep has a usual length."""
        swept = SWEPT * self.num_sweep_seeds if self.methods[method].grid else 0
        return swept + self.num_seeds * (2 if method in OURS else 1)

    def _seen(self, problem: str, method: str) -> list[float]:
        key = (type(self.problems[problem]).__name__, self.methods[method].name)
        return self.store.seconds.get(key, [])

    def remaining(self) -> str:
        """How long what is left may take: by runs like those, else by others on the same problem, else by all."""
        known = self.store.seconds
        if not known:
            return ""
        everything = [s for times in known.values() for s in times]
        total = 0.0
        for (problem, method), count in self.left.items():
            if count:
                kind = type(self.problems[problem]).__name__
                same = [s for (p, _), times in known.items() if p == kind for s in times]
                total += count * float(np.mean(self._seen(problem, method) or same or everything))
        return f"; {sum(self.left.values())} runs remain, about {_duration(total)}"


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 3600 else f"{seconds / 60:.0f} min"


def shortened(problems: dict[str, Problem], steps: int | None) -> dict[str, Problem]:
    """The same problems in so many steps."""
    return {name: replace(problem, steps=steps) if steps else problem for name, problem in problems.items()}

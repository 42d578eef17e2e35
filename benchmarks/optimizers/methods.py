"""The optimizers that are compared: what each makes of a model and a learning rate, and which rates are tried."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import l2o
from benchmarks.optimizers.muon import Muon, parted
from benchmarks.optimizers.problem import check_names
from l2o.rules.base import UpdateRule
from l2o.saved import to_bytes
from l2o.training.outer import rate_factor

WARM_UP = 0.05
"""Share of the steps in which the learning rate of a tuned baseline rises from zero."""

Make = Callable[[nn.Module, float, int, float], Optimizer]
"""An optimizer of a model's parameters from learning rate, number of steps and weight decay."""


@dataclass(frozen=True)
class Method:
    """An optimizer and how its learning rate comes about.

    Arguments:
        name: for reports.
        make: the optimizer.
        settings: what it is, as JSON: all but the rate that can change a run. Equal settings share their runs.
        grid: half decades to try first, k for a rate of 10^(k/2); none if the rate is fixed.
        fixed: the half decade that is taken where there is no grid.
        cosine: whether the rate rises linearly and then falls to zero as a cosine; else it is constant.
        weight_decay: of every run that does not say otherwise.
    """

    name: str
    make: Make
    settings: dict[str, Any] = field(hash=False)
    grid: tuple[int, ...] = ()
    fixed: int = 0
    cosine: bool = True
    weight_decay: float = 0.01

    def identity(self) -> dict[str, Any]:
        """What a run's key is made of."""
        return {**self.settings, "cosine": self.cosine, "weight_decay": self.weight_decay}

    def schedule(self, optimizer: Optimizer, steps: int) -> LambdaLR | None:
        """The schedule of a run, if it has one."""
        return LambdaLR(optimizer, cosine(steps)) if self.cosine else None


def rate(half_decades: int) -> float:
    """The learning rate 10^(k/2), to three digits."""
    return float(f"{10 ** (half_decades / 2):.3g}")


def half_decades(rate: float) -> int:
    """The k of a rate of 10^(k/2)."""
    return round(2 * math.log10(rate))


def cosine(steps: int) -> Callable[[int], float]:
    """The factor of the learning rate at each step of a run: a linear rise, then half a cosine down to zero."""
    return rate_factor("cosine", max(1, round(WARM_UP * steps)), steps, last=0.0)


def adamw(model: nn.Module, lr: float, steps: int, weight_decay: float) -> Optimizer:
    """AdamW."""
    return torch.optim.AdamW(model.parameters(), lr, weight_decay=weight_decay)


def nadamw(model: nn.Module, lr: float, steps: int, weight_decay: float) -> Optimizer:
    """NAdam with decoupled weight decay."""
    return torch.optim.NAdam(model.parameters(), lr, weight_decay=weight_decay, decoupled_weight_decay=True)


def sgd(model: nn.Module, lr: float, steps: int, weight_decay: float) -> Optimizer:
    """Nesterov's momentum."""
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=weight_decay)


def muon(model: nn.Module, lr: float, steps: int, weight_decay: float) -> Optimizer:
    """Muon for hidden matrices, AdamW for the rest."""
    return Muon(*parted(model), lr, weight_decay=weight_decay)


def schedule_free(model: nn.Module, lr: float, steps: int, weight_decay: float) -> Optimizer:
    """Schedule-Free AdamW (Defazio et al., 2024), with its own warm-up."""
    from schedulefree import AdamWScheduleFree

    warm_up = max(1, round(WARM_UP * steps))
    return AdamWScheduleFree(model.parameters(), lr, weight_decay=weight_decay, warmup_steps=warm_up)


def soap(model: nn.Module, lr: float, steps: int, weight_decay: float) -> Optimizer:
    """SOAP (Vyas et al., 2024); sides above 512 are not rotated, or its steps would take minutes here."""
    from pytorch_optimizer import SOAP

    return SOAP(model.parameters(), lr, weight_decay=weight_decay, max_precondition_dim=512)


@dataclass(frozen=True)
class Learned:
    """Makes the drop-in of a rule, told how long the run is."""

    rule: UpdateRule

    def __call__(self, model: nn.Module, lr: float, steps: int, weight_decay: float) -> Optimizer:
        graph = next(model.parameters()).is_cuda
        return l2o.LearnedOptimizer(model.parameters(), self.rule, lr, weight_decay, total_steps=steps, graph=graph)


def _version(package: str) -> str | None:
    """Of what is installed: other versions make other runs."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _code() -> str:
    """A hash of the rules as they are written, so that runs of other equations are not taken for these."""
    folder = Path(l2o.__file__).parent
    files = sorted(path for part in ("rules", "kernels", "optim") for path in (folder / part).rglob("*.*"))
    text = b"".join(path.read_bytes() for path in files if path.suffix in (".py", ".cpp", ".h"))
    return hashlib.sha256(text).hexdigest()[:16]


ADAPTIVE = (-7, -6, -5, -4, -3)
BASELINES = {
    "adamw": Method("AdamW", adamw, {"optimizer": "adamw"}, ADAPTIVE),
    "adamw-1e-3": Method("AdamW 1e-3", adamw, {"optimizer": "adamw"}, fixed=-6, cosine=False),
    "nadamw": Method("NAdamW", nadamw, {"optimizer": "nadamw"}, ADAPTIVE),
    "sgd": Method("SGD", sgd, {"optimizer": "sgd"}, (-4, -3, -2, -1, 0), weight_decay=0.0),
    "muon": Method("Muon", muon, {"optimizer": "muon"}, ADAPTIVE),
    "schedule-free": Method(
        "Schedule-Free",
        schedule_free,
        {"optimizer": "schedule-free", "version": _version("schedulefree")},
        ADAPTIVE,
        cosine=False,
    ),
    "soap": Method("SOAP", soap, {"optimizer": "soap", "version": _version("pytorch_optimizer")}, ADAPTIVE),
}
OURS = ("ours", "ours-tuned")
NAMES = (*BASELINES, *OURS)


def ours(name: str) -> dict[str, Method]:
    """The learned optimizer as it is, and with the best of several multipliers of its step."""
    rule = l2o.load(name)
    weights = hashlib.sha256(to_bytes(rule, {})).hexdigest()[:16]
    settings = {"optimizer": "learned", "weights": weights, "code": _code()}
    common: dict[str, Any] = {"cosine": False, "weight_decay": 0.0}
    return {
        "ours": Method("l2o", Learned(rule), settings, **common),
        "ours-tuned": Method("l2o, tuned", Learned(rule), settings, (-2, -1, 0, 1, 2), **common),
    }


def chosen(names: tuple[str, ...], rule: str) -> dict[str, Method]:
    """Methods by name, all if none is named; the learned optimizer is loaded only where it is wanted.

    Raises:
        ValueError: there is no method or no rule of such a name.
    """
    check_names("optimizers", names, NAMES)
    names = tuple(name for name in NAMES if name in (names or NAMES))
    known = BASELINES | (ours(rule) if set(names) & set(OURS) else {})
    return {name: known[name] for name in names}

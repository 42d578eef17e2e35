"""Named suites: what to meta-train on, and held-out tasks to choose by and to report."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass

from l2o.tasks import Always, MLPClassification, MLPFamily, Quadratics, Task, TaskFamily
from l2o.tasks.data import digits
from l2o.tasks.nets import Activation
from l2o.types import seeded


@dataclass(frozen=True)
class Suite:
    """Tasks in three parts that share no network and, where there is data, no training example.

    Arguments:
        family: what meta-training draws from.
        validation: held-out tasks that may guide choices (which checkpoint, which setting).
        test: held-out tasks for the report; nothing is chosen by them.
        num_steps: length of their runs.
    """

    family: TaskFamily
    validation: dict[str, Task]
    test: dict[str, Task]
    num_steps: int = 100


def digits_mlp() -> Suite:
    """Small perceptrons on 8x8 digits, 100 steps; held out: other widths, depths and the other half of the data."""
    seen, unseen = digits().split(0.5, seed=0)
    activations: tuple[Activation, ...] = ("sigmoid", "tanh", "relu")
    family = MLPFamily(hidden=(8, 12, 16, 24), activation=activations, batch_size=(64,), sources=(seen,))
    validation: dict[str, Task] = {
        "sigmoid 40": MLPClassification(seen, 64, (40,), "sigmoid"),
        "relu 64": MLPClassification(seen, 64, (64,), "relu"),
    }
    test: dict[str, Task] = {
        "sigmoid 48": MLPClassification(unseen, 64, (48,), "sigmoid"),
        "tanh 36": MLPClassification(unseen, 64, (36,), "tanh"),
        "relu 80": MLPClassification(unseen, 64, (80,), "relu"),
        "tanh 28-28": MLPClassification(unseen, 64, (28, 28), "tanh"),
    }
    return Suite(family, validation, test, num_steps=100)


def quadratics() -> Suite:
    """Random 10-dimensional quadratic bowls, 100 steps (Andrychowicz et al., 2016, section 3.1)."""
    family = Quadratics(10)
    draws = {f"bowl {i}": family.sample(seeded(1000 + i)) for i in range(8)}
    names = list(draws)
    return Suite(family, {name: draws[name] for name in names[:4]}, {name: draws[name] for name in names[4:]}, 100)


SUITES: dict[str, Callable[[], Suite]] = {"digits-mlp": digits_mlp, "quadratics": quadratics}


def load_suite(name: str) -> Suite:
    """A suite by name, or from `module:object`: a Suite, a TaskFamily, a Task, or a function that returns one.

    A bare family is evaluated on four tasks drawn from it, two to choose by and two to report.

    Raises:
        ValueError: unknown name, or an object of another kind.
    """
    if ":" not in name:
        if name not in SUITES:
            close = difflib.get_close_matches(name, SUITES, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"tasks must be one of {', '.join(SUITES)}, or module:object for your own; got {name!r}.{hint}"
            )
        return SUITES[name]()
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"module:object must name something that can be imported; {name!r}: {error}") from error
    return _suite_of(found() if callable(found) else found, name)


def _suite_of(found: object, name: str) -> Suite:
    if isinstance(found, Suite):
        return found
    if isinstance(found, Task):
        found = Always(found)
    if not isinstance(found, TaskFamily):
        raise ValueError(f"{name} must be a Suite, a TaskFamily or a Task; got {type(found).__name__}.")
    drawn = [found.sample(seeded(1000 + i)) for i in range(4)]
    return Suite(found, {f"task {i}": drawn[i] for i in (0, 1)}, {f"task {i}": drawn[i] for i in (2, 3)})

"""Named suites: what to meta-train on, and held-out tasks to choose by and to report."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from l2o.tasks import (
    Always,
    AutoencoderFamily,
    ConvFamily,
    Mixture,
    MLPClassification,
    MLPFamily,
    Quadratics,
    RecurrentFamily,
    ReparametrisedFamily,
    StudentClassification,
    StudentFamily,
    StudentRegression,
    Task,
    TaskFamily,
    TransformerFamily,
)
from l2o.tasks.data import digits, shakespeare
from l2o.tasks.nets import Activation
from l2o.types import seeded


@dataclass(frozen=True)
class Suite:
    """Tasks in three parts without a common network; what is reported shares no training example with the rest.

    Arguments:
        family: what meta-training draws from.
        validation: held-out tasks that may guide choices (which checkpoint, which setting).
        test: held-out tasks for the report; nothing is chosen by them.
        num_steps: length of their runs.
        score: what a rule is chosen by on the validation tasks: the mean loss over all steps, or the final loss over
            the one at the start, of which a geometric mean is taken.
    """

    family: TaskFamily
    validation: dict[str, Task]
    test: dict[str, Task]
    num_steps: int = 100
    score: Literal["area", "final"] = "area"


def digits_mlp(hidden: tuple[int, ...] = (8, 12, 16, 24)) -> Suite:
    """Small perceptrons on 8x8 digits, 100 steps; held out: other widths, depths and the other half of the data."""
    seen, unseen = digits().split(0.5, seed=0)
    activations: tuple[Activation, ...] = ("sigmoid", "tanh", "relu")
    family = MLPFamily(hidden=hidden, activation=activations, batch_size=(64,), sources=(seen,))
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
    return _split(Quadratics(10))


def digits_mlp_wide() -> Suite:
    """As digits-mlp, trained on networks of 16 to 48 units; the same held-out ones."""
    return digits_mlp(hidden=(16, 32, 48))


def digits_conv() -> Suite:
    """Small convolutional networks on 8x8 digits; held out: more channels, the other half of the data."""
    seen, unseen = digits().split(0.5, seed=0)
    family = ConvFamily(channels=(4, 8), activation=("tanh", "relu"), batch_size=(32,), sources=(seen,))
    held_out = ConvFamily(channels=(12,), depth=(3,), batch_size=(32,), sources=(unseen,))
    return Suite(family, _drawn(replace(family, channels=(6,)), 2), _drawn(held_out, 2))


def digits_autoencoder() -> Suite:
    """Autoencoders and VAEs on 8x8 digits; held out: wider ones, the other half of the data."""
    seen, unseen = digits().split(0.5, seed=0)
    family = AutoencoderFamily(variational=(False, True), hidden=(16, 32), latent=(4, 8), sources=(seen,))
    held_out = replace(family, hidden=(48,), latent=(6,), sources=(unseen,))
    return Suite(family, _drawn(replace(family, hidden=(24,)), 2), _drawn(held_out, 4))


def text_rnn() -> Suite:
    """Recurrent character models (Elman, GRU, LSTM) on Shakespeare; held out: wider ones, another part of the text."""
    seen, unseen = shakespeare().split(0.5)
    family = RecurrentFamily(hidden=(16, 24), embedding=(8,), length=(12,), batch_size=(16,), sources=(seen,))
    held_out = replace(family, hidden=(40,), sources=(unseen,))
    return Suite(family, _drawn(replace(family, hidden=(20,)), 2), _drawn(held_out, 3))


def text_transformer() -> Suite:
    """Transformer character models on Shakespeare; held out: wider and deeper ones, another part of the text."""
    seen, unseen = shakespeare().split(0.5)
    family = TransformerFamily(width=(16, 24), length=(12,), batch_size=(16,), sources=(seen,))
    held_out = replace(family, width=(32,), layers=(1, 2), sources=(unseen,))
    return Suite(family, _drawn(replace(family, width=(20,)), 2), _drawn(held_out, 2))


def teachers() -> Suite:
    """Students of random teachers on ill-conditioned inputs with label noise; held out: wider and deeper ones."""
    family = StudentFamily(task=(StudentClassification, StudentRegression), hidden=(16, 32), depth=(1,))
    held_out = replace(family, hidden=(64,), depth=(2,))
    return Suite(family, _drawn(replace(family, hidden=(24,)), 2), _drawn(held_out, 4))


def mixed() -> Suite:
    """All networks of the other suites in random units (scales from 0.1 to 10); held out as there."""
    parts = ("digits-mlp", "digits-conv", "digits-autoencoder", "text-rnn", "text-transformer", "teachers")
    suites = {name: SUITES[name]() for name in parts}
    family = Mixture(tuple(ReparametrisedFamily(suite.family, (0.1, 10.0)) for suite in suites.values()))
    validation = {name: next(iter(suite.validation.values())) for name, suite in suites.items()}
    test = {f"{name}: {label}": task for name, suite in suites.items() for label, task in suite.test.items()}
    return Suite(family, validation, test)


def everyday() -> Suite:
    """Small networks of every common kind, other scales of their initial weights; held out: wider and deeper ones.

    Ten structures in all, so that each is compiled once. Validation and test tasks are four to thirty times as large.
    """
    seen, unseen = digits().split(0.5, seed=0)
    read, unread = shakespeare().split(0.5)
    students = StudentFamily(hidden=(32,), depth=(2,), task=(StudentRegression,))
    families = (
        MLPFamily(hidden=(128,), sources=(seen,)),
        MLPFamily(hidden=(96,), depth=(2,), activation=("tanh",), batch_size=(16,), sources=(seen,)),
        ConvFamily(channels=(12,), batch_size=(32,), sources=(seen,)),
        AutoencoderFamily(hidden=(96,), sources=(seen,)),
        RecurrentFamily(hidden=(24,), embedding=(8,), cell=("gru",), length=(12,), batch_size=(16,), sources=(read,)),
        TransformerFamily(width=(16,), length=(12,), sources=(read,)),
        TransformerFamily(width=(32,), length=(12,), batch_size=(8,), sources=(read,)),
        students,
        replace(students, task=(StudentClassification,), hidden=(128,), depth=(1,), batch_size=(128,)),
        replace(students, task=(StudentClassification,), hidden=(16,), depth=(3,), batch_size=(16,)),
    )
    family = Mixture(tuple(replace(one, init_scale=(0.5, 2.0)) for one in families))
    validation: dict[str, Task] = {
        "perceptron": MLPClassification(unseen, 32, (256, 256), "relu"),
        "autoencoder": AutoencoderFamily(hidden=(256,), latent=(6,), sources=(unseen,)).sample(seeded(0)),
        "transformer": TransformerFamily(width=(48,), layers=(2,), sources=(unread,)).sample(seeded(0)),
        "regression": StudentFamily(task=(StudentRegression,), hidden=(96,), depth=(3,)).sample(seeded(0)),
    }
    test: dict[str, Task] = {
        "perceptron": MLPClassification(unseen, 128, (200,), "tanh"),
        "convolutions": ConvFamily(channels=(16,), depth=(3,), sources=(unseen,)).sample(seeded(1)),
        "recurrent": RecurrentFamily(hidden=(64,), cell=("lstm",), sources=(unread,)).sample(seeded(1)),
        "variational": AutoencoderFamily(variational=(True,), hidden=(64,), sources=(unseen,)).sample(seeded(1)),
    }
    return Suite(family, validation, test, num_steps=300, score="final")


def _drawn(family: TaskFamily, num: int) -> dict[str, Task]:
    """Some tasks of a family, by number."""
    return {f"task {i}": family.sample(seeded(1000 + i)) for i in range(num)}


def _split(family: TaskFamily) -> Suite:
    """A suite whose held-out tasks are further draws: two to choose by and two to report."""
    drawn = list(_drawn(family, 4).items())
    return Suite(family, dict(drawn[:2]), dict(drawn[2:]))


SUITES: dict[str, Callable[[], Suite]] = {
    "digits-mlp": digits_mlp,
    "digits-mlp-wide": digits_mlp_wide,
    "digits-conv": digits_conv,
    "digits-autoencoder": digits_autoencoder,
    "text-rnn": text_rnn,
    "text-transformer": text_transformer,
    "teachers": teachers,
    "quadratics": quadratics,
    "mixed": mixed,
    "everyday": everyday,
}


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
    return _split(found)

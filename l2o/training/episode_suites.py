"""Named sources of episodes: what learners train on, and held-out ones to choose by and to report."""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from l2o.learners.backbones import MLP, Conv4
from l2o.tasks.data import CC18, banking77, cc18, digits, image_folder, omniglot_classes
from l2o.tasks.data.labelled import LabelledDataset
from l2o.tasks.episodes import EpisodeFamily, FewShot
from l2o.tasks.function_classes import (
    Curriculum,
    DecisionTrees,
    FunctionClass,
    LinearFunctions,
    Ramp,
    TwoLayerFunctions,
)
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.tasks.gaussian_process import FIXED_KERNEL, GaussianProcess
from l2o.tasks.sinusoid import Sinusoid
from l2o.tasks.tabular import Tables
from l2o.tasks.tabular_prior import SyntheticTables


@dataclass(frozen=True)
class Shape:
    """The shape of episodes: in training, and (way, shot, query) in evaluation."""

    way: int = 5
    shot: int = 1
    query: int = 15
    train_way: int = 5
    train_shot: int = 1
    train_query: int = 15


@dataclass(frozen=True)
class EpisodeSuite:
    """Episodes in three parts without a common class, and the network for such inputs.

    Arguments:
        train: what training draws from.
        validation: may guide choices (which checkpoint, which setting).
        test: for the report; nothing is chosen by it.
        network: makes the usual network with so many outputs (0: an embedding); may take `width`, `norm`, `strided`,
            `precision` (as `Conv4` does) and `context` (inputs besides, for CAVIA) as keywords. To be saved it must be
            of a class that `l2o` exports, or a `Configured` one that `l2o.load.register` knows.
        outputs: of a network that answers by itself: the way, or the numbers of a target.
        classifies: whether answers are labels.
        inputs: numbers in an input, for learners that read it as it is; None where it is no vector.
        rows: of the largest support set; None where that is what the shape says.
    """

    train: EpisodeFamily
    validation: EpisodeFamily
    test: EpisodeFamily
    network: Callable[..., nn.Module]
    outputs: int
    classifies: bool = True
    inputs: int | None = None
    rows: int | None = None


def omniglot(shape: Shape) -> EpisodeSuite:
    """Handwritten characters, 28x28; 4400 training classes with rotations, 423 test classes. Conv4-64."""
    train, validation, test = (omniglot_classes(part) for part in ("train", "validation", "test"))
    return few_shot(train, validation, test, shape, Conv4)


def sinusoid(shape: Shape) -> EpisodeSuite:
    """Sinusoids of random amplitude and phase, K = shot points; perceptron 1-40-40-1."""
    train, held_out = Sinusoid(shape.train_shot, shape.train_query), Sinusoid(shape.shot, max(100, shape.query))
    return EpisodeSuite(train, held_out, held_out, partial(mlp, (1, 40, 40)), 1, classifies=False, inputs=1)


def gaussian_classes(shape: Shape) -> EpisodeSuite:
    """Gaussian classes in 16 dimensions; best accuracy 5-way 1-shot .830. Perceptron of two layers of 64."""
    train = GaussianClasses(way=shape.train_way, shot=shape.train_shot, query=shape.train_query)
    held_out = GaussianClasses(way=shape.way, shot=shape.shot, query=shape.query)
    return EpisodeSuite(train, held_out, held_out, partial(mlp, (16, 64, 64)), shape.way, inputs=16)


def tables(shape: Shape) -> EpisodeSuite:
    """Rows of OpenML-CC18 tables, 16 columns, two classes (--way 2); 9 tables train, 3 and 3 are held out."""
    sets = tuple(cc18(name) for name in CC18)

    def family(of: tuple[LabelledDataset, ...], way: int, shot: int, query: int) -> Tables:
        return Tables(of, way, shot, query)

    held_out = (shape.way, shape.shot, shape.query)
    return EpisodeSuite(
        family(sets[:9], shape.train_way, shape.train_shot, shape.train_query),
        family(sets[9:12], *held_out),
        family(sets[12:], *held_out),
        partial(mlp, (16, 64, 64)),
        shape.way,
        inputs=16,
    )


def gp_rbf(shape: Shape) -> EpisodeSuite:
    """Draws from Gaussian processes, each with an RBF kernel of its own; sizes are random whatever the shape."""
    return _gaussian_process(GaussianProcess())


def gp_matern(shape: Shape) -> EpisodeSuite:
    """The same with Matern-5/2 kernels."""
    return _gaussian_process(GaussianProcess("matern"))


def gp_fixed(shape: Shape) -> EpisodeSuite:
    """Draws from one Gaussian process with much noise, perhaps without any context; best log-likelihood -.705."""
    return _gaussian_process(FIXED_KERNEL)


def _gaussian_process(family: GaussianProcess) -> EpisodeSuite:
    """With a perceptron of three layers of 128."""
    network, rows = partial(mlp, (1, 128, 128, 128)), family.context[1]
    return EpisodeSuite(family, family, family, network, 1, classifies=False, inputs=1, rows=rows)


def linear(shape: Shape) -> EpisodeSuite:
    """Linear functions of 5 numbers with noise .5; in training numbers and points grow (Garg et al., 2022)."""
    return _functions(LinearFunctions(dim=5, noise=0.5), shape)


def sparse_linear(shape: Shape) -> EpisodeSuite:
    """Linear functions of 10 numbers, of which 2 count."""
    return _functions(LinearFunctions(dim=10, sparsity=2), shape)


def noisy_sparse_linear(shape: Shape) -> EpisodeSuite:
    """Linear functions of 10 numbers, of which 2 count, with noise .5."""
    return _functions(LinearFunctions(dim=10, noise=0.5, sparsity=2), shape)


def two_layer(shape: Shape) -> EpisodeSuite:
    """Random networks of 20 units over 5 numbers."""
    return _functions(TwoLayerFunctions(dim=5, hidden=20), shape)


def decision_trees(shape: Shape) -> EpisodeSuite:
    """Random decision trees of depth 3 over 5 numbers."""
    return _functions(DecisionTrees(dim=5, depth=3), shape)


def _functions(family: FunctionClass, shape: Shape) -> EpisodeSuite:
    """With a perceptron of two layers of 64. Training grows by a number and two points every 500 outer steps."""
    held_out = replace(family, shot=shape.shot, query=shape.query)
    whole = replace(family, shot=shape.train_shot, query=shape.train_query)
    few = max(1, whole.query - 2 * (whole.dim - 1))
    train = Curriculum(whole, Ramp(1, whole.dim, 1, 500), Ramp(few, whole.query, 2, 500))
    return EpisodeSuite(
        train, held_out, held_out, partial(mlp, (family.dim, 64, 64)), 1, classifies=False, inputs=family.dim
    )


def tabular_prior(shape: Shape) -> EpisodeSuite:
    """Tables of 100 columns at most and 10 classes, from a prior; their sizes are random whatever the shape."""
    family = SyntheticTables()
    return EpisodeSuite(family, family, family, partial(mlp, (100, 64, 64)), 10, inputs=100, rows=family.support[1])


def banking(shape: Shape) -> EpisodeSuite:
    """Questions to a bank by intent, as sentence embeddings; 47 intents train, 10 validate, 20 test."""
    train, validation, test = (banking77(part) for part in ("train", "validation", "test"))
    return few_shot(train, validation, test, shape, partial(mlp, (384, 256, 128)))


def pictures(path: str, shape: Shape) -> EpisodeSuite:
    """A folder of pictures, a folder for each class: of the classes 3/5 train, 1/5 validate, 1/5 test. Conv4-64."""
    whole = image_folder(path)
    part = whole.num_classes // 5
    if part < shape.way:
        raise ValueError(
            f"a fifth of the classes must be at least way={shape.way}, because validation and test have a fifth each; "
            f"{path} has {whole.num_classes} classes."
        )
    train, validation, test = whole.split((whole.num_classes - 2 * part, part, part))
    return few_shot(train, validation, test, shape, Conv4)


def digits_classes(shape: Shape) -> EpisodeSuite:
    """The ten digits, 8x8, in the box; 4 classes train (16 with rotations), 3 are for validation, 3 for the test."""
    data = digits()
    whole = LabelledDataset("digits", data.train.x, data.train.y)
    train, validation, test = whole.split((4, 3, 3))
    return few_shot(train.with_rotations(), validation, test, shape, partial(Conv4, width=32, size=8, depth=2))


def few_shot(
    train: LabelledDataset,
    validation: LabelledDataset,
    test: LabelledDataset,
    shape: Shape,
    network: Callable[..., nn.Module],
) -> EpisodeSuite:
    """A suite of three labelled sets."""
    way = shape.train_way
    if way > train.num_classes:
        warnings.warn(
            f"training episodes have all of the {train.num_classes} training classes, in place of {way}.", stacklevel=2
        )
        way = train.num_classes
    return EpisodeSuite(
        FewShot(train, way, shape.train_shot, shape.train_query),
        FewShot(validation, shape.way, shape.shot, shape.query),
        FewShot(test, shape.way, shape.shot, shape.query),
        network,
        shape.way,
    )


def mlp(sizes: tuple[int, ...], outputs: int = 0, context: int = 0) -> nn.Module:
    """A perceptron; without outputs it embeds.

    Arguments:
        context: numbers that it reads besides the input.
    """
    inputs, *hidden = sizes
    return MLP((inputs + context, *hidden, outputs or sizes[-1]))


EPISODES: dict[str, Callable[[Shape], EpisodeSuite]] = {
    "omniglot": omniglot,
    "sinusoid": sinusoid,
    "gaussian-classes": gaussian_classes,
    "digits": digits_classes,
    "banking77": banking,
    "cc18": tables,
    "gp-rbf": gp_rbf,
    "gp-matern": gp_matern,
    "gp-fixed": gp_fixed,
    "tabular-prior": tabular_prior,
    "linear": linear,
    "sparse-linear": sparse_linear,
    "noisy-sparse-linear": noisy_sparse_linear,
    "two-layer": two_layer,
    "decision-trees": decision_trees,
}


def load_episodes(name: str, shape: Shape) -> EpisodeSuite:
    """A suite by name, of a folder of pictures, or from `module:object`: a function of a `Shape` that returns one.

    Raises:
        ValueError: unknown name, or an object of another kind.
    """
    if Path(name).is_dir() and name not in EPISODES:
        return pictures(name, shape)
    if ":" not in name:
        if name not in EPISODES:
            close = difflib.get_close_matches(name, EPISODES, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"data must be one of {', '.join(EPISODES)}, a folder of pictures, or module:object for your own; "
                f"got {name!r}.{hint}"
            )
        return EPISODES[name](shape)
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"module:object must name something that can be imported; {name!r}: {error}") from error
    suite = found(shape) if callable(found) else found
    if not isinstance(suite, EpisodeSuite):
        raise ValueError(f"{name} must give an EpisodeSuite when called with a Shape; got {type(suite).__name__}.")
    return suite

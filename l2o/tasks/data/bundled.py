"""Small data sets inside the package: scikit-learn's digits, and three classic tables."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from l2o.tasks.data.dataset import Dataset, Part, loader


@loader
def digits() -> Dataset:
    """1797 handwritten digits, 8x8 (Alpaydin and Kaynak, 1998); every fifth of a class is for validation."""
    x, y = _read("digits")
    return _every_fifth("digits", (x / 16).float().view(-1, 1, 8, 8), y, 10)


@loader
def iris() -> Dataset:
    """150 flowers, 4 features, 3 classes (Fisher, 1936)."""
    return _table("iris", 3)


@loader
def wine() -> Dataset:
    """178 wines, 13 features, 3 classes (Aeberhard and Forina, 1992)."""
    return _table("wine", 3)


@loader
def breast_cancer() -> Dataset:
    """569 tumours, 30 features, 2 classes (Wolberg et al., 1995)."""
    return _table("breast_cancer", 2)


def _read(name: str) -> tuple[Tensor, Int[Tensor, " n"]]:
    with (files("l2o.tasks.data") / "files" / f"{name}.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        return torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"]).long()


def _table(name: str, num_classes: int) -> Dataset:
    """Rows with every feature at mean 0 and deviation 1 over the training part."""
    x, y = _read(name)
    dataset = _every_fifth(name, x, y, num_classes)
    mean, deviation = dataset.train.x.mean(dim=0), dataset.train.x.std(dim=0)
    train, validation = (Part(((p.x - mean) / deviation).float(), p.y) for p in (dataset.train, dataset.validation))
    return Dataset(name, train, validation, num_classes)


def _every_fifth(name: str, x: Float[Tensor, " n *features"], y: Int[Tensor, " n"], num_classes: int) -> Dataset:
    seen = F.one_hot(y, num_classes).cumsum(dim=0)  # of each class so far
    held_out = seen[torch.arange(len(y)), y] % 5 == 0
    return Dataset(name, Part(x[~held_out], y[~held_out]), Part(x[held_out], y[held_out]), num_classes)

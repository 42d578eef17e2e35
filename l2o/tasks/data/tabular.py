"""Tables of OpenML-CC18 (Bischl et al., 2021, https://arxiv.org/abs/1708.03731): small classification problems."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from l2o.tasks.data.bundled import breast_cancer, iris, wine
from l2o.tasks.data.dataset import Dataset, loader
from l2o.tasks.data.fetch import data_folders, find
from l2o.tasks.data.labelled import LabelledDataset, labelled

NAMES = ("openml_cc18_15.npz", "cc18.npz")

CC18 = (
    "balance-scale",
    "breast-w",
    "mfeat-morphological",
    "cmc",
    "credit-g",
    "tic-tac-toe",
    "eucalyptus",
    "analcatdata_dmft",
    "pc3",
    "pc1",
    "blood-transfusion-service-center",
    "qsar-biodeg",
    "cylinder-bands",
    "MiceProtein",
    "steel-plates-fault",
)
"""Names of 15 sets of the suite: at most 2,000 rows, 100 features and 10 classes."""


@loader
def cc18(name: str, root: str | None = None) -> LabelledDataset:
    """One table: numbers as they are, categories as their codes, what is missing as nan.

    Searched for (see `fetch.data_folders`) in `openml_cc18_15.npz`, arrays NAME/X and NAME/y; else downloaded from
    OpenML by scikit-learn's `fetch_openml`, which keeps it in scikit-learn's own cache and checks OpenML's checksum.

    Raises:
        ValueError: the table is not one of `CC18`.
        FileNotFoundError: neither the file nor the network gives it.
    """
    if name not in CC18:
        raise ValueError(f"a table must be one of {', '.join(CC18)}; got {name!r}.")
    path = find(NAMES, root)
    if path is None:
        x, y = _download(name, root)
    else:
        with np.load(path, allow_pickle=False) as file:
            x, y = file[f"{name}/X"].astype(np.float32), file[f"{name}/y"]
    return labelled(name, torch.from_numpy(x), y.tolist())


def _download(name: str, root: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Rows and labels from OpenML; its default version of a name, which is not checked against the suite's."""
    try:
        from sklearn.datasets import fetch_openml
    except ImportError as error:
        raise ImportError("downloading tables needs scikit-learn: pip install 'l2o[bench]'.") from error
    try:
        table = fetch_openml(name=name, as_frame=True, parser="auto")
    except Exception as error:  # of the network, of the parser: whatever it is, the table did not come
        raise FileNotFoundError(
            f"{NAMES[0]} is in none of the folders {', '.join(str(f) for f in data_folders(root))}, and OpenML does "
            f"not give {name!r} ({error})."
        ) from error
    columns = [
        column.cat.codes.where(column.cat.codes >= 0) if hasattr(column, "cat") else column
        for _, column in table.data.items()
    ]
    return np.stack([np.asarray(column, np.float32) for column in columns], axis=1), np.asarray(table.target)


def bundled_tables() -> tuple[LabelledDataset, ...]:
    """The three tables in the package: iris, wine, breast cancer."""
    return tuple(from_dataset(data) for data in (iris(), wine(), breast_cancer()))


def from_dataset(data: Dataset) -> LabelledDataset:
    """All examples of a data set, training and validation, by class."""
    parts = (data.train, data.validation)
    x: Float[Tensor, n * features] = torch.cat([part.x for part in parts])
    return LabelledDataset(data.name, x, torch.cat([part.y for part in parts]))

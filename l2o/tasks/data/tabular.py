"""Tables of OpenML-CC18 (Bischl et al., 2021, https://arxiv.org/abs/1708.03731): small classification problems."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch

from l2o.arrays import read_arrays
from l2o.tasks.data.bundled import breast_cancer, iris, wine
from l2o.tasks.data.dataset import loader
from l2o.tasks.data.fetch import cache_folder, data_folders, find
from l2o.tasks.data.labelled import LabelledDataset, from_dataset, labelled

NAMES = ("openml_cc18_15.npz", "cc18.npz")


class Table(NamedTuple):
    """What OpenML calls a table (`data_id`), and its rows, columns and classes, by which a download is checked."""

    data_id: int
    rows: int
    columns: int
    classes: int


# Sizes: of the npz file. Ids: each agrees with at least one public list of OpenML's names, and is in a public list of
# the suite's ids; those of steel-plates-fault, balance-scale and qsar-biodeg also with published counts of their
# classes, which are the npz file's. A name alone would not do: OpenML's first steel-plates-fault is another problem, of
# 2 classes. Not verified: the tables' downloads; the path was run on the small copies that scikit-learn tests with.
TABLES = {
    "balance-scale": Table(11, 625, 4, 3),
    "breast-w": Table(15, 699, 9, 2),
    "mfeat-morphological": Table(18, 2000, 6, 10),
    "cmc": Table(23, 1473, 9, 3),
    "credit-g": Table(31, 1000, 20, 2),
    "tic-tac-toe": Table(50, 958, 9, 2),
    "eucalyptus": Table(188, 736, 19, 5),
    "analcatdata_dmft": Table(469, 797, 4, 6),
    "pc3": Table(1050, 1563, 37, 2),
    "pc1": Table(1068, 1109, 21, 2),
    "blood-transfusion-service-center": Table(1464, 748, 4, 2),
    "qsar-biodeg": Table(1494, 1055, 41, 2),
    "cylinder-bands": Table(6332, 540, 37, 2),
    "MiceProtein": Table(40966, 1080, 77, 8),
    "steel-plates-fault": Table(40982, 1941, 27, 7),
}
CC18 = tuple(TABLES)
"""Names of 15 sets of the suite: at most 2,000 rows, 100 features and 10 classes."""


@loader
def cc18(name: str, root: str | None = None) -> LabelledDataset:
    """One table: numbers as they are, categories as their codes, what is missing as nan.

    Codes are in the file's order, which may mean nothing; but one column for each category would crowd out the others
    where only some columns are drawn (with `Tables` a linear classifier lost 4 points of accuracy, over four tables).

    Searched for (see `fetch.data_folders`) in `openml_cc18_15.npz`, arrays NAME/X and NAME/y; else downloaded from
    OpenML by scikit-learn's `fetch_openml` into the cache folder.

    Raises:
        ValueError: the table is not one of `CC18`, or what came from OpenML is of another size.
        FileNotFoundError: neither the file nor the network gives it.
    """
    if name not in TABLES:
        raise ValueError(f"a table must be one of {', '.join(CC18)}; got {name!r}.")
    path = find(NAMES, root)
    if path is None:
        x, y = download_table(name, root)
    else:
        arrays = read_arrays(path, (f"{name}.X", f"{name}.y"))
        x, y = arrays[f"{name}.X"], arrays[f"{name}.y"]
    return labelled(name, torch.from_numpy(x.astype(np.float32)), y)


def cc18_tables(part: Literal["train", "validation", "test"], root: str | None = None) -> tuple[LabelledDataset, ...]:
    """Whole tables of one part: the first 9 of `CC18` to train, 3 to choose by, 3 for the report."""
    parts = {"train": CC18[:9], "validation": CC18[9:12], "test": CC18[12:]}
    if part not in parts:
        raise ValueError(f"part must be train, validation or test; got {part!r}.")
    return tuple(cc18(name, root) for name in parts[part])


def download_table(name: str, root: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Rows and labels of a table from OpenML, the labels in order of their names."""
    wanted = (
        f"{NAMES[0]}, with arrays {name}/X and {name}/y, is in none of the folders "
        f"{', '.join(map(str, data_folders(root)))} (named by root= or the environment variable L2O_DATA)"
    )
    try:
        from sklearn.datasets import fetch_openml
    except ImportError as error:
        raise FileNotFoundError(
            f"{wanted}. To download the table from OpenML instead, install scikit-learn: pip install 'l2o[bench]'."
        ) from error
    table = TABLES[name]
    try:
        got = fetch_openml(data_id=table.data_id, data_home=str(cache_folder()), as_frame=False, parser="liac-arff")
    except Exception as error:  # of the network, of the parser: whatever it is, the table did not come
        raise FileNotFoundError(f"{wanted}, and OpenML does not give table {table.data_id}: {error!r}.") from error
    size = (*got.data.shape, len(set(got.target)))
    if size != table[1:]:
        raise ValueError(
            f"table {table.data_id} of OpenML, {name}, must have {table.rows} rows, {table.columns} columns and "
            f"{table.classes} classes, or results on it are not comparable; got {size}."
        )
    return got.data, got.target


def bundled_tables() -> tuple[LabelledDataset, ...]:
    """The three tables in the package: iris, wine, breast cancer."""
    return tuple(from_dataset(data) for data in (iris(), wine(), breast_cancer()))

"""Sentences as embeddings, by class: few-shot problems of language that a perceptron can learn."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from l2o.tasks.data.dataset import loader
from l2o.tasks.data.fetch import data_folders, find
from l2o.tasks.data.labelled import LabelledDataset

NAMES = ("banking77_minilm.npz", "text/banking77_minilm.npz")


@loader
def banking77(
    part: Literal["train", "validation", "test"] = "train", seed: int = 0, root: str | None = None
) -> LabelledDataset:
    """Questions to a bank in 77 intents (Casanueva et al., 2020), as 384 numbers each: 47 intents to train, 10, 20.

    Searched for (see `fetch.data_folders`) as `[text/]banking77_minilm.npz`: x_train and x_test, the sentences' mean
    pooled, normalised embeddings by all-MiniLM-L6-v2; y_train and y_test; labels. Both parts of a class are used.

    Arguments:
        seed: of the order in which classes are split.
        root: folder searched first.

    Raises:
        FileNotFoundError: there is no such file; it is not downloaded, because it is no original.
    """
    if part not in ("train", "validation", "test"):
        raise ValueError(f"part must be train, validation or test; got {part!r}.")
    path = find(NAMES, root)
    if path is None:
        raise FileNotFoundError(
            f"{NAMES[0]} must be in one of the folders {', '.join(str(f) for f in data_folders(root))} (named by root= "
            "or the environment variable L2O_DATA). Make it from the public BANKING77 files with the encoder "
            "all-MiniLM-L6-v2: arrays x_train, y_train, x_test, y_test and labels."
        )
    with np.load(path, allow_pickle=False) as file:
        x = np.concatenate([file["x_train"], file["x_test"]]).astype(np.float32)
        y = np.concatenate([file["y_train"], file["y_test"]]).astype(np.int64)
        names = tuple(str(name) for name in file["labels"])
    whole = LabelledDataset("banking77", torch.from_numpy(x), torch.from_numpy(y), names)
    parts = whole.split((47, 10, 20), seed)
    return parts[("train", "validation", "test").index(part)]

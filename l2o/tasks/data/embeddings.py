"""Sentences as embeddings, by class: few-shot problems of language that a perceptron can learn."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from l2o.arrays import damage_told, read_arrays
from l2o.tasks.data.dataset import loader
from l2o.tasks.data.fetch import data_folders, find
from l2o.tasks.data.labelled import LabelledDataset

NAMES = ("banking77_minilm.npz", "text/banking77_minilm.npz")
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


@loader
def banking77(
    part: Literal["train", "validation", "test"] = "train", seed: int = 0, root: str | None = None
) -> LabelledDataset:
    """Questions to a bank in 77 intents (Casanueva et al., 2020), as 384 numbers each: 47 intents to train, 10, 20.

    Searched for (see `fetch.data_folders`) as `[text/]banking77_minilm.npz`: x_train and x_test, the sentences' mean
    pooled, normalised embeddings by all-MiniLM-L6-v2; y_train and y_test; labels. Intents are split, not sentences:
    an intent's sentences are all of its rows of x_train and then of x_test, as they are in the file.

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
            "or the environment variable L2O_DATA). Make it by l2o.tasks.data.embeddings.embed_banking77 from "
            "train.csv and test.csv of BANKING77 (github.com/PolyAI-LDN/task-specific-datasets, banking_data) with the "
            "encoder all-MiniLM-L6-v2."
        )
    arrays = read_arrays(path, ("x_train", "x_test", "y_train", "y_test", "labels"), texts=True)
    with damage_told(path, "a file of embeddings with their labels"):
        x = np.concatenate([arrays["x_train"], arrays["x_test"]])
        y = np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(np.int64)
        names = tuple(str(name) for name in arrays["labels"])
        whole = LabelledDataset("banking77", torch.from_numpy(x), torch.from_numpy(y), names)
        parts = whole.split((47, 10, 20), seed)
    return parts[("train", "validation", "test").index(part)]


def embed_banking77(
    train: str, test: str, path: str, encode: Callable[[Sequence[str]], np.ndarray] | None = None
) -> None:
    """Write the file that `banking77` reads.

    Arguments:
        train: a file of comma-separated values with the columns text and category.
        test: another.
        path: of the file to be written.
        encode: gives the embeddings of sentences, one a row; all-MiniLM-L6-v2 by sentence-transformers if None.
    """
    encode = encode or _sentence_transformer()
    rows = {}
    for part, source in (("train", train), ("test", test)):
        with Path(source).expanduser().open(encoding="utf-8", newline="") as file:
            rows[part] = [(row["text"], row["category"]) for row in csv.DictReader(file)]
    labels = sorted({category for part in rows.values() for _, category in part})
    arrays = {"labels": np.array(labels)}
    for part, pairs in rows.items():
        arrays[f"x_{part}"] = np.asarray(encode([text for text, _ in pairs])).astype(np.float16)
        arrays[f"y_{part}"] = np.array([labels.index(category) for _, category in pairs], np.uint8)
    target = Path(path).expanduser()
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:  # as a file, or numpy adds a suffix to another name
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy's allow_pickle is no array


def _sentence_transformer() -> Callable[[Sequence[str]], np.ndarray]:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(
            "embedding sentences needs an encoder: pip install sentence-transformers, or pass encode=."
        ) from error
    model = SentenceTransformer(ENCODER)
    return lambda sentences: model.encode(list(sentences), normalize_embeddings=True)

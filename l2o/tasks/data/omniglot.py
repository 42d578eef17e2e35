"""Omniglot: 1623 characters of 50 alphabets, each drawn by 20 people (Lake et al., 2015)."""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from l2o.arrays import MAX_BYTES, damage_told, read_arrays
from l2o.files import read_file
from l2o.tasks.data.dataset import Dataset, Loaded, Part, loader
from l2o.tasks.data.fetch import Remote, locate
from l2o.tasks.data.images import average_pool
from l2o.tasks.data.labelled import LabelledDataset

Split: TypeAlias = Literal["background", "evaluation"]

URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
# Published sums, not verified here.
ZIPS: dict[Split, Remote] = {
    "background": Remote(
        "omniglot/images_background.zip", f"{URL}images_background.zip", "md5:68d2efa1b9178cc56df9314c21c6e718"
    ),
    "evaluation": Remote(
        "omniglot/images_evaluation.zip", f"{URL}images_evaluation.zip", "md5:6b91aef0f799c5bb55b94e3f2daec811"
    ),
}
PNG = re.compile(r"([^/]+)/character(\d{1,4})/\d+_(\d{1,4})\.png$")
DRAWN = 105
"""Pixels of a side."""

MAX_DRAWING = 1 << 16
"""Bytes of a drawing's file; one has some hundred."""


@dataclass(frozen=True, eq=False, repr=False)
class Characters(Loaded):
    """Drawings by character, ink 255 on 0.

    Arguments:
        name: for reports.
        images: drawings; axis 0 is the character, axis 1 the person.
        alphabet: for each character, the position of its alphabet in `alphabet_names`.
        alphabet_names: names in order.
    """

    images: UInt8[Tensor, "characters people size size"]
    alphabet: Int[Tensor, " characters"]
    alphabet_names: tuple[str, ...]


@loader
def omniglot_characters(split: Split = "background", size: int = 28, root: str | None = None) -> Characters:
    """The characters of one split: background has 964 in 30 alphabets, evaluation 659 in 20.

    Searched for (see `fetch.data_folders`) as `omniglot_28.npz` (sizes up to 28) or `omniglot_105_bits.npz` (size 105),
    or as the original zip files in `omniglot/` or `omniglot-py/`; else downloaded. Zip files need Pillow.

    Arguments:
        size: 105 as drawn, 28 shrunk by Lanczos' filter, or less: 28 and then average-pooled.
        root: folder searched first.
    """
    if size > 28 and size != 105:
        raise ValueError(f"Omniglot comes in 105 pixels, or in 28 and less; got size {size}.")
    npz = "omniglot_105_bits.npz" if size == 105 else "omniglot_28.npz"
    path = locate(ZIPS[split], (npz, f"omniglot/images_{split}.zip", f"omniglot-py/images_{split}.zip"), root)
    if path.suffix == ".npz":
        with damage_told(path, "a packed file of Omniglot's characters"):
            characters = _pick(read_omniglot_npz(path), split)
    else:
        characters = read_omniglot_zip(path, 105 if size == 105 else 28)
    n, people = characters.images.shape[:2]
    images = average_pool(characters.images.flatten(0, 1), size).view(n, people, size, size)
    return Characters(f"omniglot_{split}_{size}x{size}", images, characters.alphabet, characters.alphabet_names)


@loader
def omniglot_classes(
    part: Literal["train", "validation", "test"] = "train", size: int = 28, seed: int = 0, root: str | None = None
) -> LabelledDataset:
    """Characters as classes, for few-shot episodes: 1100 to train (and their turns by 90 degrees), 100 to choose, 423.

    The split of few-shot learning (Vinyals et al., 2016; Finn et al., 2017): all 1623 characters, whatever their
    alphabet, in random order. Training classes have their three rotations as classes of their own, 4400 in all.

    Arguments:
        seed: of the order.
        size, root: see `omniglot_characters`.
    """
    if part not in ("train", "validation", "test"):
        raise ValueError(f"part must be train, validation or test; got {part!r}.")
    both = [omniglot_characters(split, size, root) for split in ("background", "evaluation")]
    images = torch.cat([characters.images for characters in both])
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    chosen = {"train": order[:1100], "validation": order[1100:1200], "test": order[1200:]}[part]
    labels = torch.arange(len(chosen)).unsqueeze(1).expand(-1, images.shape[1])
    x = images[chosen].flatten(0, 1).unsqueeze(1)
    classes = LabelledDataset(f"omniglot_{part}_{size}x{size}", x, labels.flatten())
    return classes.with_rotations() if part == "train" else classes


@loader
def omniglot(
    size: int = 28, split: Split = "background", alphabet: int | None = None, root: str | None = None
) -> Dataset:
    """Which character is it? 16 drawings of each train, 4 validate.

    Arguments:
        size: see `omniglot_characters`.
        alphabet: only the characters of this alphabet, by position in the split; None for all.
    """
    characters = omniglot_characters(split, size, root)
    images = characters.images
    if alphabet is not None:
        if not 0 <= alphabet < len(characters.alphabet_names):
            raise ValueError(
                f"alphabet must name one of the {len(characters.alphabet_names)} alphabets of the {split} split by "
                f"position; got {alphabet}."
            )
        images = images[characters.alphabet == alphabet]
    labels = torch.arange(len(images)).unsqueeze(1).expand(images.shape[:2])
    name = characters.name if alphabet is None else f"{characters.name}_{characters.alphabet_names[alphabet]}"

    def part(people: slice) -> Part:
        return Part(images[:, people].flatten(0, 1).unsqueeze(1), labels[:, people].flatten())

    return Dataset(name, part(slice(0, 16)), part(slice(16, None)), len(images))


def read_omniglot_npz(path: Path) -> tuple[UInt8[Tensor, "n people size size"], dict[str, Any]]:
    """Images of a packed file, whole (`images`) or one bit a pixel (`bits`, `shape`), and its other arrays."""
    arrays = read_arrays(path, texts=True)
    if "bits" in arrays:
        bits, shape = arrays.pop("bits"), arrays.pop("shape").tolist()
        pixels = math.prod(shape[2:])
        if len(shape) != 4 or list(bits.shape) != [*shape[:2], -(-pixels // 8)]:
            raise ValueError(f"{path} must hold a bit for each pixel of {shape}; got {bits.shape} bytes.")
        return torch.from_numpy(np.unpackbits(bits, axis=2)[:, :, :pixels].reshape(shape) * np.uint8(255)), arrays
    images = arrays.pop("images")
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"{path} must hold drawings by character and person, as bytes; got {images.shape}.")
    return torch.from_numpy(images), arrays


def _pick(packed: tuple[Tensor, dict[str, Any]], split: Split) -> Characters:
    """The characters of one split of a packed file."""
    images, arrays = packed
    rows = np.flatnonzero(arrays["split"] == arrays["split_names"].tolist().index(split))
    found, position = np.unique(arrays["alphabet"][rows], return_inverse=True)
    names = tuple(str(arrays["alphabet_names"][i]) for i in found)
    return Characters(split, images[torch.from_numpy(rows)], torch.from_numpy(position), names)


def read_omniglot_zip(path: Path, size: int = 28) -> Characters:
    """The characters of an original zip file of PNGs, read in memory: nothing is unpacked to disk.

    Arguments:
        size: 105 as drawn, otherwise shrunk by Lanczos' filter.
    """
    drawings: dict[tuple[str, int], dict[int, Tensor]] = defaultdict(dict)
    data = read_file(path, MAX_BYTES)
    with damage_told(path, "a whole zip file of drawings"), zipfile.ZipFile(io.BytesIO(data)) as file:
        for member in file.infolist():
            if match := PNG.search(member.filename):
                alphabet, character, person = match[1], int(match[2]), int(match[3])
                drawings[alphabet, character][person] = _read_png(_member(file, member), size)
    counts = {len(people) for people in drawings.values()}
    if len(counts) != 1:
        raise ValueError(
            f"{path} must hold ALPHABET/characterNN/FFFF_DD.png, equally many drawings of every character; "
            f"got {len(drawings)} characters with {sorted(counts)} drawings."
        )
    keys = sorted(drawings)
    images = torch.stack([torch.stack([drawings[key][i] for i in sorted(drawings[key])]) for key in keys])
    names = tuple(sorted({alphabet for alphabet, _ in keys}))
    return Characters(Path(path).stem, images, torch.tensor([names.index(a) for a, _ in keys]), names)


def _member(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if member.file_size > MAX_DRAWING:
        raise ValueError(
            f"{member.filename} must unpack to at most {MAX_DRAWING:,} bytes, a drawing; it has {member.file_size:,}."
        )
    return file.read(member)


def _read_png(data: bytes, size: int) -> UInt8[Tensor, "size size"]:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading PNG files needs Pillow: pip install pillow (matplotlib brings it too).") from error
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.size != (DRAWN, DRAWN):
                raise ValueError(f"it has {image.size} pixels, not {DRAWN} a side.")
            grey = image.convert("L")
    except Exception as error:  # of Pillow, which has many: whatever it is, this is no drawing
        raise ValueError(f"a drawing must be a PNG file: {error}") from error
    if size != DRAWN:
        grey = grey.resize((size, size), Image.Resampling.LANCZOS)
    return 255 - torch.from_numpy(np.asarray(grey).copy())

"""A folder of pictures, one folder a class."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from l2o.tasks.data.dataset import loader
from l2o.tasks.data.labelled import LabelledDataset, labelled

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
MAX_PIXELS = 1 << 26
"""Of a picture before it is shrunk; a few bytes may announce any number."""


@loader
def image_folder(path: str, size: int = 28, color: bool = False) -> LabelledDataset:
    """The pictures below a folder; a picture's class is the path of its folder, so folders may be nested.

    Files of other suffixes, links, and hidden files and folders are passed over. Needs Pillow.

    Arguments:
        size: pixels of a side, to which pictures are resized whatever their proportions.
        color: three channels in place of one.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no pictures, a picture outside all classes, a class without one, or one that is broken.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"a folder of pictures must be an existing folder; there is none at {root}.")
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel; got {size}.")
    pictures = find_pictures(root)
    images = torch.stack([read_image(file, size, color) for files in pictures.values() for file in files])
    return labelled(root.resolve().name, images, [name for name, files in pictures.items() for _ in files])


def find_pictures(root: Path) -> dict[str, list[Path]]:
    """The pictures of each class, by the path of the class below `root`; both in sorted order."""
    pictures: dict[str, list[Path]] = {}
    for folder, below, names in os.walk(root, onerror=_fail):
        below[:] = sorted(name for name in below if _counts(Path(folder, name)))
        files = [Path(folder, name) for name in sorted(names) if name.lower().endswith(SUFFIXES)]
        files = [file for file in files if _counts(file)]
        if files or not below:  # a folder of nothing but classes is none itself
            pictures[Path(folder).relative_to(root).as_posix()] = files
    loose = pictures.pop(".", [])
    if not any(pictures.values()):
        raise ValueError(
            f"a folder of pictures must hold CLASS/picture, a folder for each class; {root} has no picture "
            f"({', '.join(SUFFIXES)}) in a folder below it."
        )
    if loose:
        raise ValueError(f"a picture must lie in a folder, which is its class; {loose[0]} lies in none.")
    if empty := [name for name, files in pictures.items() if not files]:
        raise ValueError(
            f"each folder below {root} must hold a picture ({', '.join(SUFFIXES)}) or further folders, because it is "
            f"a class; there is none in {', '.join(empty[:10])}."
        )
    return pictures


def _fail(error: OSError) -> None:
    raise error  # a folder that may not be read would else be a class that is not there


def _counts(path: Path) -> bool:
    return not path.name.startswith(".") and not path.is_symlink()


def read_image(path: Path, size: int, color: bool = False) -> UInt8[Tensor, "channels size size"]:
    """A picture as bytes, channels first; the right way up, transparent parts white."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("reading pictures needs Pillow: pip install pillow (matplotlib brings it too).") from error
    try:
        with Image.open(path) as file:
            if file.width * file.height > MAX_PIXELS:
                raise ValueError(f"it has {file.width} x {file.height} pixels, of at most {MAX_PIXELS:,}.")
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits a pixel, which `convert` would cut off at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            image = image.convert("RGB" if color else "L")
            shrunk = image.resize((size, size), Image.Resampling.LANCZOS)
    except Exception as error:  # of the formats' many readers: whatever it is, the file is no picture for them
        raise ValueError(
            f"every file of a picture's suffix must be a picture; {path} cannot be read: {error}"
        ) from error
    pixels = torch.from_numpy(np.asarray(shrunk).copy())
    return pixels.movedim(-1, 0).contiguous() if color else pixels.unsqueeze(0)

"""A folder of pictures, one folder a class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from l2o.tasks.data.dataset import loader
from l2o.tasks.data.labelled import LabelledDataset, labelled

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


@loader
def image_folder(path: str, size: int = 28, color: bool = False) -> LabelledDataset:
    """The pictures below a folder; a picture's class is the path of its folder, so folders may be nested.

    Hidden files and folders are passed over. Needs Pillow.

    Arguments:
        size: pixels of a side, to which pictures are resized whatever their proportions.
        color: three channels in place of one.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no pictures, or a file that cannot be read as one.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"a folder of pictures must be an existing folder; there is none at {root}.")
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel; got {size}.")
    files = [file for file in sorted(root.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file()]
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(root).parts)]
    files = [file for file in files if file.parent != root]
    if not files:
        raise ValueError(
            f"a folder of pictures must hold CLASS/picture, a folder for each class; {root} has no picture "
            f"({', '.join(SUFFIXES)}) in a folder below it."
        )
    images = torch.stack([read_image(file, size, color) for file in files])
    return labelled(root.name, images, [file.parent.relative_to(root).as_posix() for file in files])


def read_image(path: Path, size: int, color: bool = False) -> UInt8[Tensor, "channels size size"]:
    """A picture as bytes, channels first."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ImportError("reading pictures needs Pillow: pip install pillow (matplotlib brings it too).") from error
    try:
        with Image.open(path) as image:
            shrunk = image.convert("RGB" if color else "L").resize((size, size), Image.Resampling.LANCZOS)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"every file of a picture's suffix must be a picture; {path} cannot be read: {error}"
        ) from error
    pixels = torch.from_numpy(np.asarray(shrunk).copy())
    return pixels.movedim(-1, 0).contiguous() if color else pixels.unsqueeze(0)

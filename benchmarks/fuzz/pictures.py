"""Drawings, digits and pictures."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from benchmarks.fuzz.damage import NAMES
from benchmarks.fuzz.released import arrays
from l2o.tasks.data.omniglot import PNG

DRAWING = "images_background/Greek/character01/0001_01.png"
IDX = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3]) + bytes(18)
MNIST = {name: np.zeros((3, 4, 4) if name[0] == "x" else 3, np.uint8) for name in ("x_train", "x_test")}
MNIST |= {name: np.zeros(3, np.uint8) for name in ("y_train", "y_test")}


def picture(side: int = 105, kind: str = "PNG") -> bytes:
    """A picture's file."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (side, side), 255).save(file, kind)
    return file.getvalue()


@st.composite
def zips(draw: Callable[..., Any]) -> bytes:
    """Zip files of drawings, of names that lead elsewhere, of bombs, of what else one may pack."""
    file = io.BytesIO()
    names = st.sampled_from([DRAWING, DRAWING.replace("01.png", "02.png"), *NAMES]) | st.from_regex(PNG)
    names |= st.sampled_from([f"{name}/character01/0001_01.png" for name in NAMES])
    names = names.filter(lambda name: name.split("\0")[0] != "")  # zipfile writes no file without a name
    with zipfile.ZipFile(file, "w", draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as packed:
        for name in draw(st.lists(names, max_size=4, unique=True)):
            content = st.sampled_from([picture(), picture(), picture(3), b"", bytes(10**6)]) | st.binary(max_size=20)
            packed.writestr(name, draw(content))
    return file.getvalue()


def omniglot(**more: np.ndarray) -> bytes:
    """A packed file of two characters."""
    labels = {"alphabet": np.array([0, 1], np.uint8), "split": np.array([0, 1], np.uint8)}
    texts = {"alphabet_names": np.array(["a", "b"]), "split_names": np.array(["background", "evaluation"])}
    return arrays({"images": np.zeros((2, 20, 28, 28), np.uint8), **labels, **texts, **more})

"""MNIST (LeCun et al., 1998) and Fashion-MNIST (Xiao et al., 2017), from IDX or npz files."""

from __future__ import annotations

import gzip
import io
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Shaped, UInt8
from torch import Tensor

from l2o.arrays import MAX_BYTES, damage_told, read_arrays
from l2o.files import read_file
from l2o.tasks.data.dataset import Dataset, Part, loader
from l2o.tasks.data.fetch import Remote, find, locate

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

# Published sums of the original gzip files. Verified here: the two of MNIST's test part, and that MNIST's training part
# unpacks to the published sums of the unpacked files. Not verified here: Fashion-MNIST.
MNIST = (
    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
)
FASHION_MNIST = (
    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
)
MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
FASHION_MNIST_URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"


@loader
def mnist(size: int = 28, root: str | None = None) -> Dataset:
    """60000 handwritten digits and 10000 for validation.

    Searched for (see `fetch.data_folders`) as `mnist.npz`, or as the four IDX files, gzipped or not, in `mnist/` or
    `MNIST/raw/`; else downloaded.

    Arguments:
        size: 28, or less for images average-pooled to that size.
        root: folder searched first.
    """
    folders = ("mnist", "MNIST/raw")
    found = find(("mnist.npz", *_idx_names(FILES[0], folders)), root)
    if found and found.suffix == ".npz":
        return _dataset("mnist", read_npz(found), size)
    return _dataset("mnist", _read_idx_files("mnist", folders, MNIST_URL, MNIST, root), size)


@loader
def fashion_mnist(size: int = 28, root: str | None = None) -> Dataset:
    """60000 pictures of clothes in 10 classes and 10000 for validation.

    Searched for as `fashion_mnist.npz`, as `fashion_mnist_20k.npz` (2000 training pictures a class; the name tells), or
    as the four IDX files in `fashion-mnist/` or `FashionMNIST/raw/`; else downloaded.

    Arguments:
        size: 28, or less for images average-pooled to that size.
        root: folder searched first.
    """
    folders = ("fashion-mnist", "FashionMNIST/raw")
    found = find(("fashion_mnist.npz", "fashion_mnist_20k.npz", *_idx_names(FILES[0], folders)), root)
    if found and found.suffix == ".npz":
        return _dataset(found.stem, read_npz(found), size)
    return _dataset(
        "fashion_mnist", _read_idx_files("fashion-mnist", folders, FASHION_MNIST_URL, FASHION_MNIST, root), size
    )


def read_npz(path: Path) -> list[UInt8[Tensor, ...]]:
    """Training images and labels, test images and labels of an npz file with x_train, y_train, x_test, y_test.

    Raises:
        ValueError: it is damaged, or holds something else.
    """
    names = ("x_train", "y_train", "x_test", "y_test")
    arrays = read_arrays(path, names)
    return _checked([torch.from_numpy(arrays[name]) for name in names], str(path))


def read_idx(path: Path) -> UInt8[Tensor, ...]:
    """An IDX file of bytes, gzipped or not: two zero bytes, type 8, number of axes, their sizes, the bytes.

    Raises:
        ValueError: it is damaged, or unpacks to more than 1 GiB.
    """
    data = read_file(path, MAX_BYTES)
    if data[:2] == b"\x1f\x8b":
        with damage_told(path, f"a whole gzip file of at most {MAX_BYTES:,} bytes"):
            data = _unzipped(data)
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise ValueError(f"{path} must be an IDX file of bytes, beginning with 0 0 8; it begins with {list(data[:4])}.")
    start = 4 + 4 * data[3]
    if len(data) < start or not data[3]:
        raise ValueError(f"{path} must hold a size for each of its {data[3]} axes, one at least; it ends before.")
    shape = np.frombuffer(data, ">u4", count=data[3], offset=4).tolist()
    if len(data) - start != math.prod(shape):
        raise ValueError(
            f"{path} must hold {math.prod(shape)} bytes after its header, because it announces the shape {shape}; "
            f"got {len(data) - start}."
        )
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy())


def _unzipped(data: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        found = file.read(MAX_BYTES + 1)
    if len(found) > MAX_BYTES:
        raise ValueError("it unpacks to more.")
    return found


def _checked(arrays: list[Tensor], origin: str) -> list[UInt8[Tensor, ...]]:
    """Images and labels, twice, as bytes of shapes that fit."""
    for x, y in (arrays[:2], arrays[2:]):
        fits = x.dtype == y.dtype == torch.uint8 and x.ndim == 3 and 0 not in x.shape and x.shape[:1] == y.shape
        if not fits or x.shape[1] != x.shape[2] or y.max() >= 10:
            raise ValueError(
                f"{origin} must hold square pictures and as many labels 0 to 9, as bytes; got {x.dtype} "
                f"{tuple(x.shape)} and {y.dtype} {tuple(y.shape)}."
            )
    return arrays


def average_pool(images: UInt8[Tensor, "n h w"], size: int) -> UInt8[Tensor, "n size size"]:
    """Images shrunk to size x size by averaging equal (where the sizes divide) windows."""
    if not 0 < size <= images.shape[-1]:
        raise ValueError(f"images of {images.shape[-1]} pixels cannot be pooled to {size}; the size must be smaller.")
    if size == images.shape[-1]:
        return images
    chunks = [F.adaptive_avg_pool2d(chunk.float(), size).round().byte() for chunk in images.split(4096)]
    return torch.cat(chunks)


def _read_idx_files(
    name: str, folders: tuple[str, ...], url: str, sums: tuple[str, ...], root: str | None
) -> list[UInt8[Tensor, ...]]:
    arrays = []
    for file, sha256 in zip(FILES, sums, strict=True):
        remote = Remote(f"{name}/{file}.gz", f"{url}{file}.gz", f"sha256:{sha256}")
        arrays.append(read_idx(locate(remote, _idx_names(file, folders), root)))
    return _checked(arrays, f"the four files of {name}")


def _idx_names(file: str, folders: tuple[str, ...]) -> list[str]:
    return [f"{folder}/{file}{suffix}" for folder in folders for suffix in (".gz", "")]


def _dataset(name: str, arrays: list[Shaped[Tensor, ...]], size: int) -> Dataset:
    x_train, y_train, x_test, y_test = arrays
    train = Part(average_pool(x_train, size).unsqueeze(1), y_train.long())
    validation = Part(average_pool(x_test, size).unsqueeze(1), y_test.long())
    return Dataset(name if size == 28 else f"{name}_{size}x{size}", train, validation, 10)

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from l2o.tasks import data
from l2o.tasks.data.images import FILES, average_pool, read_idx

NPZ = ("x_train", "y_train", "x_test", "y_test")
REAL = Path(os.environ.get("L2O_DATA", "/nonexistent"))


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def small_arrays() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [
        random.integers(256, size=(20, 28, 28), dtype=np.uint8),
        np.arange(20, dtype=np.uint8) % 10,
        random.integers(256, size=(10, 28, 28), dtype=np.uint8),
        np.arange(10, dtype=np.uint8),
    ]


@pytest.fixture(autouse=True)
def another_layout_elsewhere(tmp_path_factory, monkeypatch):
    """A folder named by the environment with other pictures: what is in `root`, in whatever layout, comes first."""
    folder = tmp_path_factory.mktemp("elsewhere")
    zeros = {key: np.zeros((3, 28, 28) if key[0] == "x" else 3, np.uint8) for key in NPZ}
    for name in ("mnist", "fashion_mnist"):
        np.savez(folder / f"{name}.npz", **zeros)
    monkeypatch.setenv("L2O_DATA", str(folder))


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("load, folder", [(data.mnist, "mnist"), (data.fashion_mnist, "FashionMNIST/raw")])
def test_original_idx_files_are_read(tmp_path, suffix, load, folder):
    (tmp_path / folder).mkdir(parents=True)
    for name, array in zip(FILES, small_arrays(), strict=True):
        content = gzip.compress(idx_bytes(array)) if suffix else idx_bytes(array)
        (tmp_path / folder / (name + suffix)).write_bytes(content)
    dataset = load(root=str(tmp_path))
    x_train, y_train, x_test, y_test = small_arrays()
    for part, x, y in ((dataset.train, x_train, y_train), (dataset.validation, x_test, y_test)):
        np.testing.assert_array_equal(part.x.squeeze(1), x)
        np.testing.assert_array_equal(part.y, y)
    assert dataset.shape == (1, 28, 28) and dataset.num_classes == 10


def test_npz_files_are_read_and_pooled(tmp_path):
    np.savez(tmp_path / "fashion_mnist_20k.npz", **dict(zip(NPZ, small_arrays(), strict=True)))
    dataset = data.fashion_mnist(7, root=str(tmp_path))
    assert dataset.name == "fashion_mnist_20k_7x7" and dataset.shape == (1, 7, 7)
    mean = small_arrays()[0].reshape(20, 7, 4, 7, 4).mean(axis=(2, 4))
    assert np.abs(dataset.train.x.squeeze(1).numpy() - mean).max() <= 0.5


@pytest.mark.parametrize(
    "content, message",
    [
        (b"\0\0\x0d\x01\0\0\0\0", "must be an IDX file of bytes"),
        (idx_bytes(np.zeros((2, 3), np.uint8))[:-1], r"must hold 6 bytes .* got 5"),
        (b"", "must be an IDX file"),
    ],
)
def test_a_broken_idx_file_is_refused(tmp_path, content, message):
    (tmp_path / "broken").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(tmp_path / "broken")


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("l2o.tasks.data.images.MAX_BYTES", 10_000)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(10_001)))
    with pytest.raises(ValueError, match=r"at most 10,000 bytes.*unpacks to more"):
        read_idx(tmp_path / "bomb.gz")


def test_labels_that_are_no_digits_are_refused(tmp_path):
    arrays = small_arrays()
    arrays[1][3] = 10
    np.savez(tmp_path / "mnist.npz", **dict(zip(NPZ, arrays, strict=True)))
    with pytest.raises(ValueError, match="as many labels 0 to 9"):
        data.mnist(root=str(tmp_path))


def test_images_are_not_pooled_to_more_pixels():
    with pytest.raises(ValueError, match="must be smaller"):
        average_pool(torch.zeros(1, 8, 8, dtype=torch.uint8), 9)


@pytest.mark.skipif(not (REAL / "mnist.npz").exists(), reason="needs L2O_DATA with mnist.npz")
def test_real_mnist_is_what_its_paper_says():
    dataset = data.mnist(root=str(REAL))
    assert len(dataset.train.x) == 60000 and len(dataset.validation.x) == 10000
    assert dataset.train.y.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert dataset.train.x[:6000].float().div(255).mean().item() == pytest.approx(0.1307, abs=2e-3)
    original = REAL / "mnist_idx" / "t10k-images-idx3-ubyte.gz"
    if original.exists():
        assert torch.equal(read_idx(original), dataset.validation.x.squeeze(1))

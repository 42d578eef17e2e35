import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from l2o.tasks import data
from l2o.tasks.data.omniglot import read_omniglot_npz, read_omniglot_zip

REAL = Path(os.environ.get("L2O_DATA", "/nonexistent"))


def png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def zip_of_drawings(path: Path, people: int = 20) -> None:
    """Two alphabets with two and one characters; drawing number p of character c has one column of ink."""
    with zipfile.ZipFile(path, "w") as file:
        for c, folder in enumerate(("Greek/character01", "Greek/character02", "Arcadian/character01")):
            for person in range(1, people + 1):
                pixels = np.full((105, 105), 255, np.uint8)
                pixels[:, 5 * c : 5 * c + person] = 0
                file.writestr(f"images_background/{folder}/{c:04d}_{person:02d}.png", png(pixels))
        file.writestr("../outside/Greek/notes.txt", "must stay inside")


def test_the_original_zip_is_read_in_memory(tmp_path):
    pytest.importorskip("PIL")
    (tmp_path / "omniglot").mkdir()
    zip_of_drawings(tmp_path / "omniglot" / "images_background.zip")
    drawn = data.omniglot_characters(size=105, root=str(tmp_path))
    assert drawn.images.shape == (3, 20, 105, 105) and drawn.alphabet_names == ("Arcadian", "Greek")
    assert drawn.alphabet.tolist() == [0, 1, 1]
    assert (drawn.images == 255).sum(dim=(-2, -1))[0].tolist() == [105 * p for p in range(1, 21)]
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["images_background.zip", "omniglot"]
    assert data.omniglot_characters(size=14, root=str(tmp_path)).images.shape == (3, 20, 14, 14)

    greek = data.omniglot(alphabet=1, root=str(tmp_path))
    assert greek.num_classes == 2 and len(greek.train.x) == 32 and len(greek.validation.x) == 8
    assert greek.train.y.bincount().tolist() == [16, 16]
    with pytest.raises(ValueError, match="one of the 2 alphabets"):
        data.omniglot(alphabet=2, root=str(tmp_path))


def test_a_zip_with_missing_drawings_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("readme.txt", "no drawings")
    with pytest.raises(ValueError, match="equally many drawings"):
        read_omniglot_zip(tmp_path / "other.zip")


def test_packed_files_are_read(tmp_path):
    random = np.random.default_rng(0)
    labels = dict(
        alphabet=np.array([0, 7, 3], np.uint8),
        split=np.array([0, 0, 1], np.uint8),
        alphabet_names=np.array([f"alphabet {i}" for i in range(8)]),
        split_names=np.array(["background", "evaluation"]),
    )
    images = random.integers(256, size=(3, 20, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "omniglot_28.npz", images=images, **labels)
    drawn = data.omniglot_characters("background", root=str(tmp_path))
    np.testing.assert_array_equal(drawn.images, images[:2])
    assert drawn.alphabet_names == ("alphabet 0", "alphabet 7") and drawn.alphabet.tolist() == [0, 1]

    ink = random.integers(2, size=(3, 20, 105, 105), dtype=np.uint8)
    bits = np.packbits(ink.reshape(3, 20, -1), axis=2)
    np.savez(tmp_path / "bits.npz", bits=bits, shape=np.array(ink.shape), **labels)
    np.testing.assert_array_equal(read_omniglot_npz(tmp_path / "bits.npz")[0], ink * 255)


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="105 pixels, or in 28 and less"):
        data.omniglot_characters(size=64)


@pytest.mark.skipif(not (REAL / "omniglot_28.npz").exists(), reason="needs L2O_DATA with omniglot_28.npz")
def test_real_zip_and_packed_file_agree():
    zipped = REAL / "omniglot_original" / "images_background_small1.zip"
    packed = data.omniglot_characters("background")
    assert packed.images.shape == (964, 20, 28, 28) and len(packed.alphabet_names) == 30
    if not zipped.exists():
        pytest.skip("needs the original zip too")
    drawn = read_omniglot_zip(zipped)
    name = drawn.alphabet_names[-1]
    theirs = packed.images[packed.alphabet == packed.alphabet_names.index(name)]
    assert torch.equal(drawn.images[drawn.alphabet == len(drawn.alphabet_names) - 1], theirs)

import io
import os
import pickle
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


@pytest.fixture
def packed(tmp_path: Path) -> str:
    """As many characters as there are, two drawings each: the first row of pixels tells the character and the person.

    The last pixel is always the darkest, so that the turn can be told.
    """
    images = np.zeros((1623, 2, 3, 3), np.uint8)
    number = np.arange(1623)[:, None]
    images[..., 0, 0], images[..., 0, 1], images[..., 0, 2] = number // 100, number % 100, [[1, 2]]
    images[..., 2, 2] = 255
    np.savez(
        tmp_path / "omniglot_28.npz",
        images=images,
        alphabet=np.zeros(1623, np.uint8),
        split=np.arange(1623) >= 964,
        alphabet_names=np.array(["one"]),
        split_names=np.array(["background", "evaluation"]),
    )
    return str(tmp_path)


def test_classes_for_episodes_are_split_by_character_and_training_has_their_turns(packed: str) -> None:
    parts = [data.omniglot_classes(part, size=3, root=packed) for part in ("train", "validation", "test")]
    assert [part.num_classes for part in parts] == [4400, 100, 423]
    seen = []
    for part in parts:
        assert (part.counts == 2).all() and part.shape == (1, 3, 3)
        turn = part.y // 1100 if part is parts[0] else torch.zeros_like(part.y)
        upright = torch.stack(
            [torch.rot90(x, -int(k), dims=(-2, -1)) for x, k in zip(part.x.squeeze(1), turn, strict=True)]
        ).int()
        assert (upright[:, 2, 2] == 255).all()
        character = 100 * upright[:, 0, 0] + upright[:, 0, 1]
        by_class = {}
        for label, c, person in zip(part.y.tolist(), character.tolist(), upright[:, 0, 2].tolist(), strict=True):
            by_class.setdefault(label, []).append((c, person))
        assert all([p for _, p in drawings] == [1, 2] for drawings in by_class.values())
        assert all(len({c for c, _ in drawings}) == 1 for drawings in by_class.values())
        seen.append([drawings[0][0] for _, drawings in sorted(by_class.items())])
    assert seen[0][:1100] * 4 == seen[0]
    assert sorted(seen[0][:1100] + seen[1] + seen[2]) == list(range(1623))


def test_the_seed_decides_which_characters_are_held_out_and_classes_travel_as_a_call(packed: str) -> None:
    test = data.omniglot_classes("test", size=3, root=packed)
    assert not torch.equal(test.x, data.omniglot_classes("test", size=3, seed=1, root=packed).x)
    assert pickle.loads(pickle.dumps(test)) is test and len(pickle.dumps(test)) < 400


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


@pytest.mark.skipif(not (REAL / "omniglot_28.npz").exists(), reason="needs L2O_DATA with omniglot_28.npz")
def test_no_real_drawing_is_in_two_parts() -> None:
    parts = [data.omniglot_classes(part) for part in ("train", "validation", "test")]
    assert [part.num_classes for part in parts] == [4400, 100, 423]
    assert all((part.counts == 20).all() for part in parts)
    upright = parts[0].x[: 1100 * 20]
    held_out = {x.numpy().tobytes() for part in parts[1:] for x in part.x}
    assert sum(x.numpy().tobytes() in held_out for x in upright) <= 2  # one pair of drawings is identical


def test_bombs_and_pictures_of_other_sizes_are_refused(tmp_path):
    pytest.importorskip("PIL")
    name = "images_background/Greek/character01/0001_01.png"
    for content, message in ((bytes(10**6), "at most 65,536 bytes"), (png(np.zeros((9, 9), np.uint8)), "105 a side")):
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(name, content)
        with pytest.raises(ValueError, match=message):
            read_omniglot_zip(tmp_path / "a.zip")


def test_a_packed_file_that_holds_something_else_is_told(tmp_path):
    np.savez(tmp_path / "omniglot_28.npz", images=np.zeros((2, 20, 28, 28), np.uint8), split=np.zeros(9))
    with pytest.raises(ValueError, match=r"must be a packed file of Omniglot's characters"):
        data.omniglot_characters(root=str(tmp_path))

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from l2o.tasks.data import image_folder
from l2o.tasks.data.image_folder import read_image

PIL = pytest.importorskip("PIL.Image")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of two pictures: red is 40 times the class, green 10 times the picture."""
    for i, name in enumerate(("greek/alpha", "greek/beta", "latin")):
        (tmp_path / name).mkdir(parents=True)
        for k, suffix in enumerate(("png", "BMP")):
            PIL.new("RGB", (9, 5), (40 * i, 10 * k, 0)).save(tmp_path / name / f"{k}.{suffix}")
    return tmp_path


def test_a_folder_of_pictures_is_a_data_set(folder: Path) -> None:
    data = image_folder(str(folder), size=4, color=True)
    assert data.name == folder.name and data.class_names == ("greek/alpha", "greek/beta", "latin")
    assert data.y.tolist() == [0, 0, 1, 1, 2, 2] and data.x.shape == (6, 3, 4, 4) and data.x.dtype == torch.uint8
    assert data.x[:, :, 0, 0].tolist() == [[40 * i, 10 * k, 0] for i in range(3) for k in range(2)]
    assert image_folder(str(folder), size=4).x.shape == (6, 1, 4, 4)
    assert image_folder(str(folder), size=4) is image_folder(str(folder), 4, False)


def test_other_files_hidden_ones_and_links_are_passed_over(folder: Path) -> None:
    (folder / "latin" / "notes.txt").write_text("no picture")
    (folder / "latin" / ".0.png").write_bytes(b"of an operating system")
    (folder / ".hidden").mkdir()
    PIL.new("L", (3, 3)).save(folder / ".hidden" / "x.png")
    (folder / "latin" / "again.png").symlink_to(folder / "latin" / "0.png")
    (folder / "link").symlink_to(folder / "latin")
    data = image_folder(str(folder), size=3)
    assert data.class_names == ("greek/alpha", "greek/beta", "latin") and len(data.x) == 6


def test_the_file_that_is_broken_is_named(folder: Path) -> None:
    whole = (folder / "latin" / "0.png").read_bytes()
    for content in (b"no picture", b"", whole[: len(whole) // 2]):
        (folder / "latin" / "bad.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.png cannot be read"):
            image_folder(str(folder), size=5)


def test_a_class_without_pictures_and_pictures_without_a_class_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"has no picture \(.png, .jpg"):
        image_folder(str(folder / "greek" / "alpha"))
    with pytest.raises(FileNotFoundError, match="existing folder"):
        image_folder(str(folder / "nowhere"))
    with pytest.raises(ValueError, match="at least 1 pixel"):
        image_folder(str(folder), size=0)
    (folder / "greek" / "gamma").mkdir()
    with pytest.raises(ValueError, match="there is none in greek/gamma"):
        image_folder(str(folder), size=6)
    (folder / "greek" / "gamma").rmdir()
    PIL.new("L", (3, 3)).save(folder / "preview.png")
    with pytest.raises(ValueError, match=r"must lie in a folder.*preview\.png lies in none"):
        image_folder(str(folder), size=7)


def test_pixels_are_those_of_the_file_with_channels_first(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(6, 6, 3), dtype=np.uint8)
    PIL.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", 6, color=True), pixels.transpose(2, 0, 1))
    grey = read_image(tmp_path / "a.png", 6)[0].double()
    torch.testing.assert_close(
        grey, torch.from_numpy(pixels @ np.array([0.299, 0.587, 0.114])), atol=1.0, rtol=0, check_dtype=False
    )


def test_transparent_16_bit_and_turned_pictures_look_as_they_are_shown(tmp_path: Path) -> None:
    see_through = np.zeros((4, 4, 4), np.uint8)
    see_through[0, 0] = (0, 0, 0, 255)  # one black point, all else is black too but is not to be seen
    PIL.fromarray(see_through).save(tmp_path / "alpha.png")
    assert read_image(tmp_path / "alpha.png", 4).flatten().tolist() == [0] + [255] * 15

    deep = np.array([[0, 65535], [25700, 300]], np.uint16)
    PIL.fromarray(deep).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png", 2).tolist() == [[[0, 255], [100, 1]]]

    exif = PIL.Exif()
    exif[0x0112] = 6  # the camera was turned: to be shown a quarter clockwise
    PIL.fromarray(np.array([[0, 255], [0, 255]], np.uint8)).save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png", 2).tolist() == [[[0, 0], [255, 255]]]


def test_without_pillow_it_is_told_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "PIL":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match="pip install pillow"):
        image_folder(str(folder), size=8)

import pytest
import torch

from l2o.tasks import data
from l2o.tasks.data.text import draw_windows
from l2o.types import seeded


def test_text_survives_encoding_and_splits_without_overlap():
    text = data.encode("fox", "the quick brown fox jumps over the lazy dog", validation=0.25)
    assert text.decode(text.train) + text.decode(text.validation) == "the quick brown fox jumps over the lazy dog"
    first, last = text.split(0.5)
    assert torch.equal(torch.cat([first.train, last.train]), text.train)
    assert first.alphabet == last.alphabet == text.alphabet


def test_each_target_is_the_character_after_its_input():
    codes = torch.arange(50, dtype=torch.uint8)
    x, y = draw_windows(codes, 7, seeded(0), 3, 4)
    assert x.shape == y.shape == (3, 4, 7)
    assert torch.equal(y, x + 1) and torch.equal(x[..., 1:], y[..., :-1])


def test_every_window_of_a_text_can_be_drawn():
    x, y = draw_windows(torch.arange(6, dtype=torch.uint8), 3, seeded(0), 200)
    assert set(x[:, 0].tolist()) == {0, 1, 2} and y.max() == 5


def test_a_text_shorter_than_a_window_is_refused():
    with pytest.raises(ValueError, match="must be longer than a window of 5"):
        draw_windows(torch.zeros(5, dtype=torch.uint8), 5, seeded(0), 1)


def test_shakespeare_is_in_the_box():
    text = data.shakespeare()
    assert text.decode(text.train[:13]) == "First Citizen" and len(text.train) > 150_000


def test_a_file_is_read(tmp_path):
    path = tmp_path / "hello.txt"
    path.write_text("hello world, hello text", encoding="utf-8")
    text = data.text_file(str(path))
    assert text.name == "hello.txt" and text.alphabet == " ,dehlortwx"

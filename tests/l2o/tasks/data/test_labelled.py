import os
import pickle
from pathlib import Path

import pytest
import torch

from l2o.tasks.data import CC18, LabelledDataset, banking77, cc18, image_folder, labelled, omniglot_classes
from l2o.tasks.episodes import FewShot
from l2o.types import seeded, tree_map

PIL = pytest.importorskip("PIL.Image")
DATA = Path(os.environ.get("L2O_DATA") or "nowhere")


def small() -> LabelledDataset:
    return labelled("small", torch.arange(12.0).view(6, 2), ["b", "a", "c", "a", "b", "c"])


def test_any_labels_are_numbered_in_their_order() -> None:
    data = small()
    assert data.y.tolist() == [1, 0, 2, 0, 1, 2] and data.class_names == ("a", "b", "c")
    assert data.counts.tolist() == [2, 2, 2] and data.shape == (2,)
    assert labelled("t", torch.zeros(2, 1), torch.tensor([30, 7])).y.tolist() == [1, 0]


def test_bytes_are_drawn_as_floats() -> None:
    data = LabelledDataset("bytes", torch.tensor([[255], [51]], dtype=torch.uint8), torch.tensor([0, 1]))
    torch.testing.assert_close(data.select(torch.tensor([0, 1])), torch.tensor([[1.0], [0.2]]))


def test_parts_have_no_common_class_and_the_seed_decides() -> None:
    data = LabelledDataset("ten", torch.arange(30).view(30, 1), torch.arange(10).repeat(3))
    parts = data.split((5, 3, 2), seed=1)
    seen = [set((part.x.flatten() % 10).tolist()) for part in parts]
    assert [len(s) for s in seen] == [5, 3, 2] and len(set.union(*seen)) == 10
    assert all(len(part.x) == 3 * part.num_classes for part in parts)
    assert torch.equal(parts[0].x, data.split((5, 3, 2), seed=1)[0].x)
    assert not torch.equal(parts[0].x, data.split((5, 3, 2), seed=2)[0].x)
    with pytest.raises(ValueError, match="sum to at most"):
        data.split((8, 3))


def test_rotations_are_classes_of_their_own() -> None:
    image = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)
    turned = LabelledDataset("one", image.view(1, 1, 2, 2), torch.tensor([0]), ("x",)).with_rotations()
    assert turned.num_classes == 4 and turned.class_names == tuple(f"x, {a} degrees" for a in (0, 90, 180, 270))
    assert [x.flatten().tolist() for x in turned.x] == [[1, 2, 3, 4], [2, 4, 1, 3], [4, 3, 2, 1], [3, 1, 4, 2]]
    with pytest.raises(ValueError, match="square images"):
        small().with_rotations()


@pytest.mark.parametrize(
    ("x", "y"), [(torch.zeros(3, 1), [0, 1]), (torch.zeros(2, 1), [0, 2]), (torch.zeros(0, 1), [])]
)
def test_examples_without_a_label_and_labels_without_an_example_are_refused(x: torch.Tensor, y: list[int]) -> None:
    with pytest.raises(ValueError, match="must"):
        LabelledDataset("wrong", x, torch.tensor(y, dtype=torch.int64))


def test_pickles_hold_data_made_by_hand() -> None:
    again = pickle.loads(pickle.dumps(small()))
    assert torch.equal(again.x, small().x) and again.class_names == small().class_names


def test_a_folder_of_pictures_is_a_data_set(tmp_path: Path) -> None:
    for i, name in enumerate(("greek/alpha", "greek/beta", "latin")):
        (tmp_path / name).mkdir(parents=True)
        for k in range(2):
            PIL.new("RGB", (9, 5), (40 * i, 10 * k, 0)).save(tmp_path / name / f"{k}.png")
    (tmp_path / "latin" / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden").mkdir()
    PIL.new("L", (3, 3)).save(tmp_path / ".hidden" / "x.png")
    data = image_folder(str(tmp_path), size=4, color=True)
    assert data.class_names == ("greek/alpha", "greek/beta", "latin") and data.y.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.x.dtype == torch.uint8 and data.x[5, :, 0, 0].tolist() == [80, 10, 0]
    assert image_folder(str(tmp_path), size=4).x.shape == (6, 1, 4, 4)
    (tmp_path / "latin" / "bad.png").write_bytes(b"no picture either")
    with pytest.raises(ValueError, match=r"bad\.png cannot be read"):
        image_folder(str(tmp_path), size=5)
    with pytest.raises(ValueError, match="has no picture"):
        image_folder(str(tmp_path / "greek" / "alpha"))
    with pytest.raises(FileNotFoundError, match="existing folder"):
        image_folder(str(tmp_path / "nowhere"))


def test_absent_files_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("L2O_DATA", str(tmp_path))
    monkeypatch.setenv("L2O_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="all-MiniLM-L6-v2"):
        banking77("train", 1)
    with pytest.raises(ValueError, match="must be one of balance-scale"):
        cc18("wine")


@pytest.mark.skipif(not (DATA / "omniglot_28.npz").exists(), reason="needs L2O_DATA with omniglot_28.npz")
def test_the_parts_of_omniglot_are_those_of_few_shot_learning() -> None:
    parts = [omniglot_classes(part) for part in ("train", "validation", "test")]
    assert [part.num_classes for part in parts] == [4400, 100, 423]
    assert all(bool((part.counts == 20).all()) for part in parts)
    upright = parts[0].x[: 1100 * 20]
    held_out = {x.numpy().tobytes() for part in parts[1:] for x in part.x}
    assert sum(x.numpy().tobytes() in held_out for x in upright) <= 2  # one pair of drawings is identical


@pytest.mark.skipif(
    not (DATA / "text/banking77_minilm.npz").exists(), reason="needs L2O_DATA with banking77_minilm.npz"
)
def test_nearest_sentences_of_the_bank_are_mostly_of_one_intent() -> None:
    parts = [banking77(part) for part in ("train", "validation", "test")]
    assert [part.num_classes for part in parts] == [47, 10, 20]
    many, right = FewShot(parts[0], 5, 1, 10).sample_many(seeded(0), 400), []
    for i in range(400):
        support, query = tree_map(lambda x, i=i: x[i], many)
        right.append((support.y[(query.x @ support.x.T).argmax(1)] == query.y).float().mean())
    assert abs(float(torch.stack(right).mean()) - 0.871) < 0.03  # over all 77 intents


@pytest.mark.skipif(not (DATA / "openml_cc18_15.npz").exists(), reason="needs L2O_DATA with openml_cc18_15.npz")
def test_all_tables_can_be_read() -> None:
    for name in CC18:
        table = cc18(name)
        assert 100 < len(table.x) <= 2000 and table.shape[0] <= 100 and 2 <= table.num_classes <= 10

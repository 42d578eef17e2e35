import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from l2o.tasks.data import LabelledDataset, banking77
from l2o.tasks.data.embeddings import embed_banking77
from l2o.tasks.episodes import FewShot
from l2o.types import seeded

DATA = Path(os.environ.get("L2O_DATA") or "nowhere")
PARTS = ("train", "validation", "test")


def lengths(sentences: Sequence[str]) -> np.ndarray:
    """An encoder for tests: letters and words."""
    return np.array([[len(s), s.count(" ") + 1] for s in sentences], np.float32)


def write_csv(path: Path, num: int) -> str:
    rows = [f'"card, {"x" * k}",intent {c:02d}' for k in range(num) for c in reversed(range(77))]
    path.write_text("\n".join(["text,category", *rows]) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def root(tmp_path: Path) -> str:
    train, test = write_csv(tmp_path / "train.csv", 3), write_csv(tmp_path / "test.csv", 2)
    embed_banking77(train, test, str(tmp_path / "text" / "banking77_minilm.npz"), lengths)
    return str(tmp_path)


def test_the_file_made_is_the_file_read_with_both_parts_of_each_intent(root: str) -> None:
    parts = [banking77(part, root=root) for part in PARTS]
    assert [part.num_classes for part in parts] == [47, 10, 20]
    names = [name for part in parts for name in part.class_names]
    assert sorted(names) == [f"intent {c:02d}" for c in range(77)] and names != sorted(names)
    for part in parts:
        assert part.counts.tolist() == [5] * part.num_classes and part.x.dtype == torch.float16
        first = part.x[part.y == 0].tolist()
        assert first == [[6.0 + k, 2.0] for k in (0, 1, 2, 0, 1)]  # as in the files: the training part, the test part


def test_the_seed_decides_which_intents_are_held_out(root: str) -> None:
    assert banking77("test", 0, root) is banking77("test", root=root)
    assert set(banking77("test", 1, root).class_names) != set(banking77("test", 0, root).class_names)


def test_an_absent_file_and_an_absent_encoder_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("L2O_DATA", str(tmp_path))
    monkeypatch.setenv("L2O_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"banking77_minilm\.npz must be in one of.*all-MiniLM-L6-v2"):
        banking77("train", root=str(tmp_path))
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match="pip install sentence-transformers, or pass encode="):
        embed_banking77("train.csv", "test.csv", "out.npz")


@pytest.mark.skipif(
    not (DATA / "text/banking77_minilm.npz").exists(), reason="needs L2O_DATA with text/banking77_minilm.npz"
)
def test_a_real_sentence_is_mostly_of_the_intent_of_the_nearest_one() -> None:
    parts = [banking77(part) for part in PARTS]
    assert [part.num_classes for part in parts] == [47, 10, 20]
    whole = LabelledDataset(  # all 77 intents, of which the accuracy is known
        "banking77",
        torch.cat([part.x for part in parts]),
        torch.cat([part.y + offset for part, offset in zip(parts, (0, 47, 57), strict=True)]),
    )
    assert len(whole.x) == 4575 + 3080
    torch.testing.assert_close(whole.x.float().norm(dim=1), torch.ones(len(whole.x)), atol=2e-3, rtol=0)
    support, query = FewShot(whole, way=5, shot=1, query=10).sample_many(seeded(0), 1000)
    right = ((query.x @ support.x.mT).argmax(-1) == query.y).double().mean(1)
    assert abs(float(right.mean()) - 0.871) < 3 * float(right.std()) / 1000**0.5

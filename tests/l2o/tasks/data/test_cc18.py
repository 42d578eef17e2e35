import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from l2o.tasks.data import CC18, bundled_tables, cc18, cc18_tables
from l2o.tasks.data.tabular import TABLES

DATA = Path(os.environ.get("L2O_DATA") or "nowhere")
has_data = pytest.mark.skipif(
    not (DATA / "openml_cc18_15.npz").exists(), reason="needs L2O_DATA with openml_cc18_15.npz"
)


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No folder has the file; a loader keeps what it has loaded, so each test has a root of its own."""
    monkeypatch.setenv("L2O_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("L2O_CACHE", str(tmp_path / "cache"))
    return tmp_path


def fake_openml(monkeypatch: pytest.MonkeyPatch, rows: int = 1473) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    def fetch_openml(**kwargs: Any) -> SimpleNamespace:
        calls.append(kwargs)
        x = np.arange(rows * 9, dtype=np.float64).reshape(rows, 9)
        x[0, 3] = np.nan
        return SimpleNamespace(data=x, target=np.array(["2", "1", "3"] * rows, object)[:rows])

    monkeypatch.setitem(sys.modules, "sklearn.datasets", SimpleNamespace(fetch_openml=fetch_openml))
    return calls


def test_a_table_is_read_from_the_file(tmp_path: Path) -> None:
    x = np.array([[1.0, np.nan], [3.0, 4.0], [5.0, 6.0]])
    np.savez(tmp_path / "openml_cc18_15.npz", **{"cmc/X": x, "cmc/y": np.array([2, 0, 2], np.uint8)})
    table = cc18("cmc", str(tmp_path))
    assert table.name == "cmc" and table.y.tolist() == [1, 0, 1] and table.class_names == ("0", "2")
    assert table.x.dtype == torch.float32
    np.testing.assert_array_equal(table.x, x.astype(np.float32))


def test_without_the_file_the_table_comes_from_openml(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_openml(monkeypatch)
    table = cc18("cmc", str(nowhere))
    assert table.num_classes == 3 and table.shape == (9,) and table.y[:3].tolist() == [1, 0, 2]
    assert table.x.dtype == torch.float32 and table.x[0].isnan().tolist() == [j == 3 for j in range(9)]
    (call,) = calls
    assert call["data_id"] == 23 and call["data_home"].startswith(str(nowhere / "cache"))
    assert call["as_frame"] is False  # or it would need pandas


def test_a_table_of_another_size_is_refused(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_openml(monkeypatch, rows=30)
    with pytest.raises(ValueError, match=r"table 23 of OpenML, cmc, must have 1473 rows.*got \(30, 9, 3\)"):
        cc18("cmc", str(nowhere))


def test_where_neither_gives_it_the_file_and_its_place_are_told(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch_openml(**kwargs: Any) -> None:
        raise OSError("no network")

    told = r"openml_cc18_15\.npz, with arrays cmc/X and cmc/y, is in none of .*L2O_DATA.*"
    monkeypatch.setitem(sys.modules, "sklearn.datasets", SimpleNamespace(fetch_openml=fetch_openml))
    with pytest.raises(FileNotFoundError, match=told + "no network"):
        cc18("cmc", str(nowhere))
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)  # as if it were not installed
    with pytest.raises(FileNotFoundError, match=told + r"install scikit-learn: pip install 'l2o\[bench\]'"):
        cc18("cmc", str(nowhere))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="must be one of balance-scale"):
        cc18("wine")


def test_the_tables_in_the_box_are_whole() -> None:
    tables = bundled_tables()
    assert [(t.name, len(t.x), *t.shape, t.num_classes) for t in tables] == [
        ("iris", 150, 4, 3),
        ("wine", 178, 13, 3),
        ("breast_cancer", 569, 30, 2),
    ]
    assert all(a is b for a, b in zip(tables, bundled_tables(), strict=True))


@has_data
@pytest.mark.parametrize("name", CC18)
def test_real_tables_have_the_sizes_by_which_downloads_are_checked(name: str) -> None:
    table = cc18(name)
    assert (len(table.x), *table.shape, table.num_classes) == TABLES[name][1:]
    assert not table.x.isinf().any()


@has_data
def test_the_parts_of_the_suite_have_no_common_table() -> None:
    names = [table.name for part in ("train", "validation", "test") for table in cc18_tables(part)]
    assert tuple(names) == CC18 and len(cc18_tables("train")) == 9


@has_data
def test_classes_of_real_tables_are_as_many_as_published() -> None:
    assert cc18("steel-plates-fault").counts.tolist() == [402, 55, 391, 673, 158, 72, 190]
    assert sorted(cc18("balance-scale").counts.tolist()) == [49, 288, 288]
    assert cc18("qsar-biodeg").counts.tolist() == [699, 356]

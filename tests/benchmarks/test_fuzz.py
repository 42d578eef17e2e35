import zipfile
from pathlib import Path

import pytest
import yaml

pytest.importorskip("hypothesis")
pytest.importorskip("PIL")

from hypothesis import strategies as st

from benchmarks.fuzz.agents import library
from benchmarks.fuzz.models import SIZES, header, llama, num_weights
from benchmarks.fuzz.pictures import DRAWING, picture
from benchmarks.fuzz.reader import Finding, Tally, Target, fuzz, read
from benchmarks.fuzz.saved import modules
from benchmarks.fuzz.targets import targets
from l2o.training import config


@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # a library of skills has some kilobytes
@pytest.mark.parametrize("name", targets())
def test_hostile_files_give_the_documented_errors_and_nothing_else(name):
    tally = Tally()
    fuzz(targets()[name], examples=40, seed=0, tally=tally)
    assert tally.refused + tally.accepted >= 20 and tally.refused


def test_whole_files_are_accepted(tmp_path):
    tally = Tally()
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as packed:
        packed.writestr(DRAWING, picture())
    whole = {"weights": modules()[0], "drawings (zip)": (tmp_path / "whole.zip").read_bytes()}
    whole |= {"language models (llama2.c)": llama(), "skills (SQLite)": library()}
    for i, (name, data) in enumerate(whole.items()):
        read(targets()[name], data, tmp_path / str(i), tally, seconds=20)
    assert tally.accepted == 4


def test_a_model_of_as_many_layers_as_places_is_read(tmp_path):
    sizes = (*SIZES[:-1], SIZES[2])
    data, tally = header(sizes) + bytes(4 * num_weights(*sizes)), Tally()
    read(targets()["language models (llama2.c)"], data, tmp_path, tally, seconds=20)
    assert tally.accepted == 1


def test_what_must_not_happen_is_found(tmp_path, monkeypatch):
    """The fuzzer sees other errors, files that appear, and a reader without its guard."""

    def crash(path: Path) -> None:
        raise KeyError("x")

    def escape(path: Path) -> None:
        (path.parents[1] / "outside").touch()

    for i, (reader, message) in enumerate(((crash, "KeyError"), (escape, "files have changed"))):
        with pytest.raises(Finding, match=message):
            read(Target("a", st.just(b""), reader), b"", tmp_path / str(i), Tally(), seconds=20)
    monkeypatch.setattr(config, "YAML_DAMAGES", (yaml.YAMLError, ValueError))
    with pytest.raises(Finding, match="KeyError"):
        read(targets()["settings (YAML)"], b"lr: !!bool maybe", tmp_path / "yaml", Tally(), seconds=20)

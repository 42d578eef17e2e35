import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import few_shot
from benchmarks.few_shot import Config, command, run
from l2o.training.ledger import Ledger


def left(folder: Path, made: int, reported: int | None) -> None:
    """A run of so many steps, the last of them cut off in writing, and the report of a stage that ended before."""
    folder.mkdir()
    (folder / "config.yaml").write_text("learner: reptile\ntrain_query: 1\n")
    ledger = Ledger(folder / "ledger.jsonl")
    for step in range(1, made + 1):
        ledger.append({"step": step, "used": [[0, step, 0]], "not_finite": [], "events": []})
    with open(ledger.path, "a") as file:
        file.write('{"step": ')
    if reported is not None:
        (folder / "test.json").write_text(json.dumps({"score": 0.1, "steps": reported}))


@pytest.mark.parametrize(
    ("made", "reported", "told"),
    [
        (3, None, {"score": 0.9, "steps": 3, "stopped": True}),
        (5, 3, {"score": 0.9, "steps": 5, "stopped": True}),  # in a later stage
        (5, 5, {"score": 0.1, "steps": 5}),
    ],
)
def test_a_stopped_run_is_reported_as_it_was_left(
    made: int, reported: int | None, told: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(few_shot, "judge_saved", lambda config: {"score": 0.9})
    left(tmp_path / "reptile", made, reported)
    (row,) = run(Config(only=("reptile",), finish=False, out=tmp_path))
    assert {key: row[key] for key in ("score", "steps", "stopped") if key in row} == told


def test_a_run_takes_the_encoder_of_another_in_the_same_folder_once_that_is_made(tmp_path: Path) -> None:
    config = Config(only=("snail",), out=tmp_path)
    with pytest.raises(ValueError, match="which must be made first"):
        command(config, "snail", 7)
    left(tmp_path / "prototypical", 6000, 6000)
    words = command(config, "snail", 7)
    assert words[words.index("--encoder") + 1] == str(tmp_path / "prototypical")
    assert words[words.index("--steps") + 1] == "7" and words[words.index("--run") + 1] == str(tmp_path / "snail")
    assert "--encoder" not in command(config, "prototypical", 7)


def test_a_run_with_other_settings_than_its_row_would_tell_is_refused(tmp_path: Path) -> None:
    left(tmp_path / "prototypical", 6000, 6000)
    left(tmp_path / "snail", 4272, 4272)
    (tmp_path / "snail" / "config.yaml").write_text("learner: snail\nnum_episodes: 32\nsteps: 4500\n")
    with pytest.raises(ValueError, match=r"encoder was None and is .*, num_episodes was 32 and is 64"):
        list(run(Config(only=("snail",), finish=False, out=tmp_path)))
    (tmp_path / "prototypical" / "config.yaml").write_text("learner: prototypical\nevaluate_every: 500\nsteps: 6000\n")
    with pytest.raises(ValueError, match=r"precision was 'float32'"):
        list(run(Config(only=("prototypical",), finish=False, out=tmp_path)))

import json

import pytest

from l2o.training.ledger import Ledger, audit, read


def line(step, *used, events=(), not_finite=()):
    return {"step": step, "used": [list(one) for one in used], "not_finite": list(not_finite), "events": list(events)}


def write(path, *lines):
    ledger = Ledger(path)
    for one in lines:
        ledger.append(one)


def test_a_ledger_that_adds_up_is_told(tmp_path):
    path = tmp_path / "ledger.jsonl"
    late = {"event": "discarded", "worker": 1, "number": 1, "staleness": 5}
    lost = {"event": "lost", "host": 0, "why": "died"}
    write(path, line(1, (0, 1, 0), events=[lost]), line(2, (0, 2, 0), (1, 3, 1), events=[late], not_finite=[[2, 1]]))
    assert audit(path) == (2, 3, 1, {"lost": 1, "discarded": 1})  # estimate 2 of worker 1 went nowhere


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([line(1, (0, 1, 0)), line(3, (0, 2, 0))], "step 3 follows 1"),
        ([line(1, (0, 1, 0)), line(1, (0, 2, 0))], "step 1 follows 1"),
        ([line(1, (0, 1, 0)), line(2, (0, 1, 1))], "number 1 of worker 0 stands twice"),
        ([line(1, (0, 1, 0)), line(2, (1, 1, 0), not_finite=[[0, 1]])], "number 1 of worker 0 stands twice"),
    ],
)
def test_a_step_lost_or_an_estimate_used_twice_is_found(tmp_path, lines, told):
    write(tmp_path / "ledger.jsonl", *lines)
    with pytest.raises(ValueError, match=told):
        audit(tmp_path / "ledger.jsonl")


def test_a_run_that_goes_on_drops_the_steps_that_it_makes_again(tmp_path):
    path = tmp_path / "ledger.jsonl"
    write(path, *(line(step, (0, step, 0)) for step in range(1, 6)))
    with open(path, "a") as file:
        file.write(json.dumps(line(6, (0, 6, 0)))[:20])  # cut off by a crash
    ledger = Ledger(path, 3)
    ledger.append(line(4, (0, 4, 0)))
    assert [one["step"] for one in read(path)] == [1, 2, 3, 4]
    assert audit(path).used == 4
    write(path, line(1, (0, 1, 0)))
    path.write_text(f"{path.read_text()}}}\n{path.read_text()}")
    with pytest.raises(ValueError, match="line 2"):
        read(path)

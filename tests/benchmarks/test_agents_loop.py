"""The comparison of whole agents: what is missing is made, rates are chosen over all seeds, differences are paired."""

import json

import pytest
import torch

from benchmarks import agents_loop
from benchmarks.agents_loop import BEGINNING, FIRST_SEED, SWEPT, WHOLE, Config, kept, lines_of, run
from l2o.agents.suites import lives
from l2o.load import load
from l2o.types import seeded

KINDS = tuple(lives("worlds").test)
ADAM = next(iter(SWEPT))


def rows_of(agent, seed, *areas):
    return [{"agent": agent, "kind": kind, "seed": seed, "area": x} for kind, x in zip(KINDS, areas, strict=True)]


def test_differences_are_paired_by_seed_and_have_an_interval():
    rows = []
    for seed, more in zip(range(3), (0.1, 0.2, 0.3), strict=True):
        rows += rows_of(WHOLE, seed, 0.5 + more, 0.6 + more, 0.7 + more) + rows_of("no tuning", seed, 0.5, 0.6, 0.7)
    rows += rows_of(WHOLE, 3, 0.0, 0.0, 0.0)  # of a seed that the other has not lived yet
    _, (whole, other) = lines_of(rows)
    assert whole[:2] == [WHOLE, "4"] and whole[-1] == ""
    assert other[:2] == ["no tuning", "3"] and other[2:6] == ["0.500", "0.600", "0.700", "0.600"]
    assert other[-1] == "+0.200 [-0.048, +0.448]"  # .1 / sqrt(3) times t's 4.303


def test_a_rate_is_the_best_of_a_kind_over_all_seeds():
    rows = rows_of(WHOLE, 0, 0.5, 0.5, 0.5) + rows_of(WHOLE, 1, 0.5, 0.5, 0.5)
    for seed, areas in enumerate(((0.1, 0.4), (0.5, 0.3))):
        swept = [[rate, False, area] for rate, area in zip((1.0, 2.0), areas, strict=True)]
        rows += [{"agent": ADAM, "kind": kind, "seed": seed, "swept": swept} for kind in KINDS]
    _, (_, adam) = lines_of(rows)
    assert adam[2:6] == ["0.350"] * 4  # .4 and .3, not .4 and .5


def test_what_is_missing_is_made_and_what_is_there_is_kept(tmp_path, monkeypatch):
    made = []

    def agent_rows(name, config, seed):
        made.append((name, seed))
        yield from rows_of(name, seed, 0.1, 0.2, 0.3)
        if name == WHOLE:
            yield from rows_of(BEGINNING, seed, 0.0, 0.0, 0.0)

    monkeypatch.setattr(agents_loop, "agent_rows", agent_rows)
    config = Config(agents=(WHOLE, "no tuning"), num_seeds=2, out=tmp_path)
    assert len(run(config)) == 18
    assert made == [(name, FIRST_SEED + i) for i in range(2) for name in (WHOLE, "no tuning")]
    path = tmp_path / "agents_loop.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("".join(line + "\n" for line in lines[:-1]))  # an agent of which a kind is missing
    assert len(run(config)) == 18 and made[4:] == [("no tuning", FIRST_SEED + 1)]
    other = json.loads(lines[0])
    other["config"]["num_lives"] = 7
    with open(path, "a") as file:
        file.write(json.dumps(other) + "\n")
    assert len(kept(config, tmp_path)) == 18  # not of other settings


@pytest.mark.parametrize("name", SWEPT)
def test_rules_without_an_agent_live_the_test_lives(name, monkeypatch):
    kinds = dict([next(iter(lives("worlds").test.items()))])
    monkeypatch.setattr(agents_loop, "lives", lambda _: type("Suite", (), {"test": kinds}))
    config = Config(num_lives=2, episodes=1)
    (row,) = agents_loop.swept_rows(name, config, FIRST_SEED)
    assert [one[:2] for one in row["swept"]] == [[rate, d] for rate in SWEPT[name][2] for d in (False, True)]
    kind, rule = kinds[KINDS[0]], load(SWEPT[name][0], **SWEPT[name][1])
    areas = agents_loop.areas_by_rate(kind, rule, [(0.5, False), (0.5, True)], config, FIRST_SEED)
    agents = kind.scores(
        rule,
        seeded(agents_loop.test_seed(FIRST_SEED)),
        2,
        hyperparameters=kind.hyperparameters._replace(learning_rate=0.5),
        episodes=1,
    )  # as an agent of that rule and rate would be tested
    torch.testing.assert_close(areas[0], agents, atol=0.02, rtol=0.0)
    assert not torch.equal(areas[0], areas[1])

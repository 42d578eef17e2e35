"""The whole loop on tiny lives: it goes on after any end as if there had been none."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from l2o.agents.config import AgentConfig
from l2o.agents.environments import CartPole, PointMass
from l2o.agents.kind import Kind
from l2o.agents.lineage import Lineage, LineageWarning
from l2o.agents.loop import Agent
from l2o.agents.ppo import PPO
from l2o.agents.suites import LifeSuite
from l2o.training.checkpoint import fingerprint, load_tree

SHORT = PPO(num_envs=2, num_steps=4, num_epochs=1)


def tiny() -> LifeSuite:
    pole = Kind(CartPole(0.4, 10), (4,), algorithm=SHORT, num_iterations=2)
    mass = Kind(PointMass(1, 0.4, 5), (4,), algorithm=SHORT, num_iterations=2)
    kinds = {"pole": pole, "mass": mass}
    return LifeSuite(kinds, kinds, kinds)


CONFIG = AgentConfig(
    rounds=3,
    iterations=2,
    recurse=1,
    outer_steps=1,
    num_pairs=2,
    num_lives=1,
    batch=4,
    max_pairs=8,
    report_every=3,
    report_lives=2,
)


def state_of(folder: Path):
    """Everything that a run has come to."""
    newest = load_tree(sorted((folder / "checkpoints").iterdir())[-1])
    ledger = (folder / "ledger.jsonl").read_text()
    files = {path.name: fingerprint(load_tree(path)) for path in (folder / "versions").iterdir()}
    return fingerprint(newest), ledger, files, (folder / "rounds.jsonl").read_text()


def assert_same(one: Path, other: Path) -> None:
    assert state_of(one) == state_of(other)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    Agent(CONFIG, folder, tiny()).run()
    return folder


def test_a_round_chooses_practises_proposes_and_stores(undisturbed):
    rounds = [json.loads(line) for line in (undisturbed / "rounds.jsonl").read_text().splitlines()]
    assert [one["number"] for one in rounds] == [1, 2, 3]
    assert {one["skill"] for one in rounds} <= {"pole", "mass"}
    for one in rounds:
        assert [part for part, _, _ in one["trials"]] == [f"policy/{one['skill']}", "hyperparameters", "optimizer"]
    assert set(rounds[-1]["report"]) == {"pole", "mass"} and not rounds[0]["report"]
    assert Lineage(undisturbed).num_trials == 9


class Killed(BaseException):
    """A process that dies."""


@pytest.mark.parametrize("call", [3, 11, 17])
def test_a_run_that_dies_in_the_middle_ends_in_the_same_state(undisturbed, tmp_path, monkeypatch, call):
    calls = iter(range(10**6))
    genuine = Kind.scores

    def dying(self, *args, **kwargs):
        if next(calls) == call:
            raise Killed
        return genuine(self, *args, **kwargs)

    monkeypatch.setattr(Kind, "scores", dying)
    with pytest.raises(Killed):
        Agent(CONFIG, tmp_path, tiny()).run()
    monkeypatch.undo()
    Agent(CONFIG, tmp_path, tiny()).run()
    assert_same(tmp_path, undisturbed)


def test_a_run_in_two_parts_ends_in_the_same_state(undisturbed, tmp_path):
    agent = Agent(CONFIG, tmp_path, tiny())
    agent.round()
    again = Agent(CONFIG, tmp_path, tiny())
    assert again.number == 1
    again.run()
    assert_same(tmp_path, undisturbed)


def test_a_damaged_ledger_is_told_and_restored_from_the_checkpoint(undisturbed, tmp_path):
    agent = Agent(CONFIG, tmp_path, tiny())
    agent.round()
    path = tmp_path / "ledger.jsonl"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.warns(LineageWarning):
        again = Agent(CONFIG, tmp_path, tiny())
    again.run()
    assert_same(tmp_path, undisturbed)


def test_islands_are_the_same_in_two_workers_of_any_pool(tmp_path):
    two = replace(CONFIG, workers=2, pool="local", rounds=1, tune=0, report_every=0)
    agent = Agent(two, tmp_path, tiny())
    done = agent.round()
    assert done.trials[-1][0] == "optimizer"
    state = agent.proposers["optimizer"].state_dict()
    assert len(state["pools"]["adam"]["workers"]) == 2

"""The whole loop on tiny lives: it goes on after any end as if there had been none."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from l2o.agents.config import PARTS, AgentConfig
from l2o.agents.environments import CartPole, PointMass
from l2o.agents.gate import Gate
from l2o.agents.kind import Kind
from l2o.agents.lineage import Lineage, LineageWarning
from l2o.agents.loop import Agent
from l2o.agents.ppo import PPO
from l2o.agents.practice import practise
from l2o.agents.skills.library import SkillLibrary
from l2o.agents.suites import LifeSuite
from l2o.training.checkpoint import fingerprint, load_tree
from l2o.types import seeded

SHORT = PPO(num_envs=2, num_steps=4, num_epochs=1)
POLE = Kind(CartPole(0.4, 10), (4,), algorithm=SHORT, num_iterations=2)


def tiny() -> LifeSuite:
    mass = Kind(PointMass(1, 0.4, 5), (4,), algorithm=SHORT, num_iterations=2)
    kinds = {"pole": POLE, "mass": mass}
    return LifeSuite(kinds, kinds, kinds)


CONFIG = AgentConfig(
    rounds=3,
    iterations=2,
    recurse=1,
    choose=1,
    plan=2,
    recall=1,
    outer_steps=1,
    num_pairs=2,
    num_lives=1,
    batch=4,
    max_pairs=8,
    report_every=3,
    report_lives=2,
)


@pytest.fixture(autouse=True, scope="module")
def _gate_that_is_easily_convinced():
    """Accepts what is not plainly worse, so that every part changes within a few rounds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Gate, "needed", lambda self, trial: 0.9)
        yield


def skills_of(folder: Path):
    library = SkillLibrary(folder / "skills.db")
    return [library.get(id) for id in library.ids()]


def state_of(folder: Path):
    """Everything that a run has come to."""
    skills = [
        (dict(s.statistics), s.parents, fingerprint([s.descriptor, dict(sorted(s.weights.items()))]))
        for s in skills_of(folder)
    ]
    newest = load_tree(sorted((folder / "checkpoints").iterdir())[-1])
    ledger = (folder / "ledger.jsonl").read_text()
    files = {path.name: fingerprint(load_tree(path)) for path in (folder / "versions").iterdir()}
    return fingerprint(newest), ledger, files, (folder / "rounds.jsonl").read_text(), skills


def assert_same(one: Path, other: Path) -> None:
    assert state_of(one) == state_of(other)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, _gate_that_is_easily_convinced):
    folder = tmp_path_factory.mktemp("undisturbed")
    Agent(CONFIG, folder, tiny()).run()
    return folder


def test_a_round_chooses_practises_proposes_and_stores(undisturbed):
    rounds = [json.loads(line) for line in (undisturbed / "rounds.jsonl").read_text().splitlines()]
    assert [one["number"] for one in rounds] == [1, 2, 3]
    assert {one["skill"] for one in rounds} <= {"pole", "mass"}
    for one in rounds:
        parts = [part for part, _, _ in one["trials"]]
        assert parts[:4] == [f"policy/{one['skill']}", "hyperparameters", "optimizer", "chooser"]
        assert ("planner" in parts) == (one["number"] == 2) and "library" in parts
    assert set(rounds[-1]["report"]) == {"pole", "mass"} and not rounds[0]["report"]
    lines = Lineage(undisturbed).lines
    assert Lineage(undisturbed).num_trials == 16
    assert not [line["reason"] for line in lines if "crashed" in line.get("reason", "")]
    by = {line["by"].split(",")[0] for line in lines if line["trial"]}
    assert by == {"practice", "Trials", "Exchange", "Gradients", "Recursion", "Choice", "ChooserLearning"}


def test_every_accepted_policy_is_a_skill_of_the_library(undisturbed):
    lineage = Lineage(undisturbed)
    accepted = [x for x in lineage.lines if x["trial"] and x["accepted"] and x["part"].startswith("policy/")]
    assert [one.statistics["trial"] for one in skills_of(undisturbed)] == [line["trial"] for line in accepted]
    assert len(accepted) > 0
    for line, skill in zip(accepted, skills_of(undisturbed), strict=True):
        value = lineage.version(line["part"], line["trial"])
        assert fingerprint({name: skill.weights[name] for name in value["params"]}) == fingerprint(value["params"])


def test_what_was_learned_is_where_the_next_skill_and_the_next_life_begin(tmp_path):
    twins = {"pole": POLE, "another pole": replace(POLE, environment=CartPole(0.3, 10))}
    frozen = replace(CONFIG, recall=0, recurse=0, tune=0, plan=0, choose=0)
    agent = Agent(frozen, tmp_path, LifeSuite(twins, twins, twins))
    first, second = agent.exercises
    spec = agent.spec.replaced("library", {"reach": 3.0}, 1)
    assert agent.living.lifetimes(spec, first.kind).first is None and agent._begin(second)["source"] == 0
    agent._practise(first, seeded(0))
    agent.spec = agent.spec.replaced("library", {"reach": 3.0}, 2)
    begun, learned = agent._begin(second), agent.spec[first.part]["params"]
    assert begun["source"] == 1 and fingerprint(begun["params"]) == fingerprint(learned)
    assert fingerprint(dict(agent.living.lifetimes(agent.spec, second.kind).first)) == fingerprint(learned)
    agent._practise(second, seeded(1))
    assert skills_of(tmp_path)[1].parents == (1,)


def test_what_is_there_already_is_practised_at_the_rate_for_skills(tmp_path, monkeypatch):
    rates = []
    monkeypatch.setattr(
        "l2o.agents.loop.practise", lambda *args: rates.append(float(args[2].learning_rate)) or practise(*args)
    )
    frozen = replace(CONFIG, recall=0, recurse=0, tune=0, plan=0, choose=0)
    agent = Agent(frozen, tmp_path, LifeSuite({"pole": POLE}, {"pole": POLE}, {"pole": POLE}))
    factors = agent.spec["hyperparameters"] | {"recalled": 0.25}
    agent.spec = agent.spec.replaced("hyperparameters", factors, 1)
    for i in range(2):
        agent._practise(agent.exercises[0], seeded(i))
    assert rates == [POLE.hyperparameters.learning_rate, 0.25 * POLE.hyperparameters.learning_rate]


@pytest.mark.parametrize("setting", PARTS.values())
def test_what_is_frozen_is_never_proposed(setting, tmp_path):
    agent = Agent(replace(CONFIG, **{setting: 0}), tmp_path, tiny())
    (frozen,) = (part for part, name in PARTS.items() if name == setting)
    assert set(agent.proposers) == set(PARTS) - {frozen}


class Killed(BaseException):
    """A process that dies."""


@pytest.mark.parametrize("call", [7, 23])
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
    two = replace(CONFIG, workers=2, pool="local", rounds=1, tune=0, choose=0, plan=0, recall=0, report_every=0)
    agent = Agent(two, tmp_path, tiny())
    done = agent.round()
    assert done.trials[-1][0] == "optimizer"
    state = agent.proposers["optimizer"].state_dict()
    assert len(state["pools"]["adam"]["workers"]) == 2

"""The library of an agent is what its ledger says, and finds the skill that is nearest to a new world."""

from dataclasses import replace

import pytest
import torch

from l2o.agents.environments import CartPole, PointMass
from l2o.agents.gate import Verdict
from l2o.agents.kind import Kind
from l2o.agents.lineage import Lineage, LineageWarning
from l2o.agents.memory import SkillMemory, descriptor
from l2o.agents.practice import begun, exercises_of
from l2o.agents.spec import AgentSpec, Proposal
from l2o.types import seeded

POLE, MASS = Kind(CartPole(0.2, 20), (4,)), Kind(PointMass(1, 0.2, 10), (4,))
EXERCISES = exercises_of({"pole": POLE, "mass": MASS}, seed=0)
ACCEPTED = Verdict(True, "better", 100.0, 10.0, 0.1, 8)


class Life:
    """A lineage whose trials all succeed."""

    def __init__(self, folder):
        self.lineage, self.path = Lineage(folder), folder / "skills.db"
        self.lineage.begin(AgentSpec.of(chooser=0.0, **{one.part: one.first() for one in EXERCISES}))
        self.spec = self.lineage.spec()

    def learn(self, part, level, source=0):
        value = level
        if part != "chooser":
            like = self.spec[part]["params"]
            value = begun({name: torch.full_like(p, level) for name, p in like.items()}, source)
        self.spec, _ = self.lineage.record(self.spec, Proposal(part, value), ACCEPTED)

    def memory(self):
        return SkillMemory(self.path, EXERCISES, self.lineage)


@pytest.fixture
def life(tmp_path):
    life = Life(tmp_path)
    life.learn("policy/pole", 1.0)
    life.learn("chooser", 2.0)
    life.learn("policy/pole", 3.0)
    life.learn("policy/mass", 4.0, source=3)
    return life


def contents(memory):
    skills = [memory.library.get(id) for id in memory.library.ids()]
    return [(s.statistics["trial"], s.version, s.parents, float(next(iter(s.weights.values())).max())) for s in skills]


EXPECTED = [(1.0, 1, (), 1.0), (3.0, 2, (1,), 3.0), (4.0, 1, (2,), 4.0)]


def test_every_accepted_version_of_a_policy_is_there_with_what_it_grew_out_of(life):
    assert contents(life.memory()) == EXPECTED
    assert contents(life.memory()) == EXPECTED  # opened again


def test_what_is_ahead_of_the_ledger_is_forgotten_and_what_is_missing_is_added(life):
    lines = list(life.lineage.lines)
    assert len(life.memory()) == 3
    life.lineage.rewind([line for line in lines if line["trial"] <= 2])
    assert contents(life.memory()) == EXPECTED[:1]
    with pytest.warns(LineageWarning, match="those of the checkpoint"):  # lines that it had and lost
        life.lineage.rewind(lines)
    assert contents(life.memory()) == EXPECTED


def test_a_damaged_library_is_told_and_made_anew(life):
    memory = life.memory()
    data = bytearray(life.path.read_bytes())
    at = data.index(bytes(torch.full((4,), 3.0).numpy().tobytes()))
    data[at] ^= 1
    life.path.write_bytes(data)
    with pytest.warns(LineageWarning, match="damaged"):
        memory = life.memory()
    assert contents(memory) == EXPECTED and life.path.with_name("skills.db.damaged").exists()
    life.path.write_bytes(b"x" * 8192)
    with pytest.warns(LineageWarning, match="damaged"):
        assert contents(life.memory()) == EXPECTED


def test_the_nearest_skill_that_fits_is_recalled(life):
    memory = life.memory()
    wider = replace(POLE, environment=CartPole(0.5, 20))
    found = memory.recall(wider, 1.0)
    assert found.trial == 3 and all((p == 3.0).all() for p in found.params.values())
    assert memory.recall(replace(MASS, environment=PointMass(1, 0.5, 10)), 1.0).trial == 4
    assert memory.recall(wider, 0.0) is None  # nothing is so near
    assert memory.recall(replace(POLE, hidden=(8,)), 100.0) is None  # nobody's weights fit


def test_worlds_of_a_family_are_nearer_to_each_other_than_families():
    poles = [descriptor(e, e.sample(seeded(1), 16)) for e in (CartPole(0.1, 20), CartPole(0.6, 20))]
    masses = [descriptor(e, e.sample(seeded(1), 16)) for e in (PointMass(1, 0.1, 10), PointMass(1, 0.6, 10))]
    within = max(float((a - b).norm()) for a, b in (poles, masses))
    between = min(float((a - b).norm()) for a in poles for b in masses)
    assert between > 2.0 * within

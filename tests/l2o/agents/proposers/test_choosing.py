"""Choosers of skills as a part of an agent."""

import pytest
import torch

from l2o.agents.proposers.choosing import OPTIONS, ChooserLearning, chooser_of, chooser_scores
from l2o.agents.skills import LearnedChooser, LearningProgress, SkillGraph, Uniform
from l2o.agents.spec import AgentSpec, packed
from l2o.rules import Adam
from l2o.types import seeded

GRAPH = SkillGraph(4, budget=40.0)


def test_a_part_is_a_chooser_by_name_or_a_learned_one():
    assert chooser_of({"name": "uniform"}) == Uniform()
    assert chooser_of({"name": "progress", "sharpness": 4.0}) == LearningProgress(4.0)
    learned = LearnedChooser(hidden_size=3)
    again = chooser_of(packed(learned))
    assert torch.equal(again.context.weight, learned.context.weight)
    for value in OPTIONS:
        scores = chooser_scores(value, GRAPH, seeded(0), 4)
        assert scores.shape == (4,) and (scores > 0).all() and (scores < 1).all()
    with pytest.raises(ValueError, match="LearnedChooser"):
        chooser_of(packed(Adam()))


def test_a_chooser_that_learns_comes_to_choose_better_than_at_random():
    learning = ChooserLearning(GRAPH, seed=0, num_rounds=8, num_lanes=64)
    spec = AgentSpec.of(chooser={"name": "uniform"})
    for i in range(2):
        value = learning.propose(spec, seeded(i)).value
    learned, uniform = (chooser_scores(one, GRAPH, seeded(9), 256).mean() for one in (value, spec["chooser"]))
    assert learned > uniform + 0.02


def test_a_chooser_that_learns_goes_on_where_it_was():
    one, other = (ChooserLearning(GRAPH, seed=i, num_rounds=1, num_lanes=16) for i in range(2))
    spec = AgentSpec.of(chooser={"name": "uniform"})
    one.propose(spec, seeded(0))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.propose(spec, seeded(1)).value, other.propose(spec, seeded(1)).value)

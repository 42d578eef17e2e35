import pytest
import torch

from l2o.learners import SNAIL, Conv4, MemoryLearner, MetaLSTMRule
from l2o.training.judge import judge
from l2o.training.learn import LearnConfig
from l2o.training.recipes import FAMILIES, RECIPES
from l2o.types import seeded

FEED_FORWARD = [name for name, recipe in RECIPES.items() if recipe.settings["inner_steps"] == 0]
PAIRS = [
    (learner, data)
    for learner in FEED_FORWARD
    for data in ("sinusoid", "digits")
    if (data == "digits" or not RECIPES[learner].classifies)
    and (learner, data) not in (("convcnp", "digits"), ("in-context", "digits"), ("in-context-linear", "digits"))
    and learner not in ("pfn", "relation")
]


@pytest.mark.parametrize(("learner", "data"), PAIRS)
def test_learners_take_targets_and_images(learner: str, data: str) -> None:
    config = LearnConfig(learner=learner, data=data, way=3, train_way=3, query=2, train_query=2)
    suite = config.suite()
    adaptation = config.adaptation(suite)
    outcome = adaptation(suite.train.sample(seeded(0)))
    outcome.loss.backward()
    assert outcome.loss.isfinite()
    assert any(isinstance(m, Conv4) for m in adaptation.modules()) == (data == "digits")
    assert all(p.grad is not None for name, p in adaptation.named_parameters() if ".encoder." in f".{name}")


@pytest.mark.parametrize("learner", ["maml++", "relation"])
def test_relation_networks_and_maml_plus_plus_learn_from_vectors(learner: str) -> None:
    config = LearnConfig(learner=learner, data="gaussian-classes", inner_steps=1)
    suite = config.suite()
    adaptation = config.adaptation(suite)
    adaptation(suite.train.sample(seeded(0))).loss.backward()
    learned = [name for name, p in adaptation.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    for part in ("head.weight", "hidden.0.weight") if learner == "maml++" else ("encoder.head.weight", "full1.weight"):
        assert any(name.endswith(part) for name in learned)
    assert judge(adaptation, suite.test, 20).scores.isfinite().all()


@pytest.mark.parametrize("learner", ["maml++", "relation"])
def test_a_width_is_refused_where_the_network_for_vectors_has_none(learner: str) -> None:
    wrong = LearnConfig(learner=learner, data="gaussian-classes", width=8)
    with pytest.raises(ValueError, match="the network of gaussian-classes takes no width; got 8"):
        wrong.adaptation(wrong.suite())


def test_no_two_families_have_a_learner_of_one_name() -> None:
    assert len(RECIPES) == sum(len(family.RECIPES) for family in FAMILIES)


def test_a_snail_reaches_over_the_largest_support_set_and_the_query() -> None:
    config = LearnConfig(learner="snail", data="gaussian-classes", way=5, shot=1, train_shot=3)
    learner = config.adaptation(config.suite()).learner
    assert isinstance(learner, SNAIL)
    assert max(getattr(block, "dilation", 0) for block in learner.blocks) == 8  # 16 rows
    regression = LearnConfig(learner="snail", data="sinusoid", shot=10)
    blocks = regression.adaptation(regression.suite()).learner.blocks
    assert max(getattr(block, "dilation", 0) for block in blocks) == 8  # 11 rows
    of_any_size = LearnConfig(learner="snail", data="gp-rbf")
    blocks = of_any_size.adaptation(of_any_size.suite()).learner.blocks
    assert max(getattr(block, "dilation", 0) for block in blocks) == 32  # 47 rows at most


@pytest.mark.parametrize(("learner", "least", "of_nine_shots"), [("mann", 32, 180), ("ntm", 64, 64), ("dnc", 32, 45)])
def test_a_memory_has_rows_for_the_largest_support_set_and_sees_labels_with_examples(
    learner: str, least: int, of_nine_shots: int
) -> None:
    for shot, rows in ((1, least), (9, of_nine_shots)):
        config = LearnConfig(learner=learner, data="gaussian-classes", way=5, shot=shot)
        made = config.adaptation(config.suite()).learner
        assert isinstance(made, MemoryLearner) and made.core.rows == rows and not made.late


def test_data_can_ask_for_other_settings_of_a_learner() -> None:
    assert LearnConfig(learner="snail", data="gaussian-classes").resolved().lr == 3e-3
    assert LearnConfig(learner="snail", data="gaussian-classes", lr=1e-2).resolved().lr == 1e-2
    assert LearnConfig(learner="maml", data="gaussian-classes").resolved().lr == 1e-3


def test_what_has_an_output_for_each_class_trains_on_as_many() -> None:
    config = LearnConfig(learner="snail", data="gaussian-classes", way=5, train_way=10)
    with pytest.raises(ValueError, match="train_way must be the way, because snail has an output for each class"):
        config.adaptation(config.suite())
    cnaps = LearnConfig(learner="cnaps", data="gaussian-classes", way=5, train_way=10)
    learner = cnaps.adaptation(cnaps.suite()).learner
    assert learner.way is None and torch.equal(learner.film.weight, torch.zeros_like(learner.film.weight))


def test_the_input_gate_of_a_meta_lstm_starts_near_the_inner_rate() -> None:
    for rate in (0.01, 0.1):
        config = LearnConfig(learner="meta-lstm", data="sinusoid", inner_lr=rate)
        rule = config.adaptation(config.suite()).rule
        assert isinstance(rule, MetaLSTMRule)
        gate = rule.gate_bias[0].sigmoid().item()
        assert rate / 2 < gate < 2 * rate
        assert rule.nominal_lr == pytest.approx(rate)
    with pytest.raises(ValueError, match=r"inner_lr must be between 0 and 1.*inner_lr=1\.0"):
        wrong = LearnConfig(learner="meta-lstm", data="sinusoid", inner_lr=1.0)
        wrong.adaptation(wrong.suite())

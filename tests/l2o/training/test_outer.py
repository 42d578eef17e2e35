from pathlib import Path

import pytest
import torch
import yaml

from l2o.agents.meta_train import LivesConfig
from l2o.load import recipe_file
from l2o.optim import LearnedOptimizer
from l2o.training.config import MetaTrainConfig, read_config, to_plain
from l2o.training.icl import IclConfig
from l2o.training.learn import LearnConfig
from l2o.training.outer import torch_class
from l2o.training.population import PopulationConfig

LEARN = [
    {"learner": "in-context", "data": "linear"},  # its recipe has a rate and clipping of its own
    {"learner": "snail", "data": "gaussian-classes"},  # as have these data
    {"learner": "maml"},
]
EXPLICIT = {"lr": 0.0, "schedule": "cosine", "max_grad_norm": 2.0}


def settings(config: LearnConfig | IclConfig | MetaTrainConfig | LivesConfig) -> tuple[object, ...]:
    found = config.resolved()
    return found.lr, found.schedule, found.max_grad_norm


@pytest.mark.parametrize("rule", ["default", "sgd", "runs/mine", "org/name"])
def test_an_update_rule_gets_rate_1_a_constant_schedule_and_no_clipping(rule: str) -> None:
    for own in LEARN:
        assert settings(LearnConfig(**own, optimizer=rule)) == (1.0, "constant", 0.0)
    assert settings(IclConfig(optimizer=rule)) == (1.0, "constant", 0.0)
    assert settings(MetaTrainConfig(optimizer=rule)) == (1.0, "constant", 1.0)  # meta-gradients are clipped for all
    assert settings(LivesConfig(optimizer=rule)) == (1.0, "constant", None)


def test_an_update_rule_is_told_how_long_the_run_is() -> None:
    config = MetaTrainConfig(rule="mlp", tasks="quadratics", optimizer="default", num_tasks=1, steps=7, threads=1)
    optimizer = config.build(config.suite()).optimizer
    assert isinstance(optimizer, LearnedOptimizer) and optimizer.total_steps == 7


def test_a_class_of_torch_gets_what_is_usual() -> None:
    usual = [(1e-3, "cosine", 1.0), (3e-3, "cosine", 10.0), (1e-3, "cosine", 10.0)]
    for own, expected in zip(LEARN, usual, strict=True):
        assert settings(LearnConfig(**own)) == settings(LearnConfig(**own, optimizer="SGD")) == expected
    assert settings(IclConfig()) == settings(IclConfig(optimizer="SGD")) == (1e-3, "cosine", 1.0)
    assert settings(MetaTrainConfig()) == settings(MetaTrainConfig(optimizer="SGD")) == (1e-2, "cosine", 1.0)
    assert settings(MetaTrainConfig(max_grad_norm=None)) == (1e-2, "cosine", None)
    assert settings(LivesConfig()) == settings(LivesConfig(optimizer="SGD")) == (0.04, "cosine", None)


@pytest.mark.parametrize("kind", [LearnConfig, IclConfig, MetaTrainConfig, LivesConfig])
@pytest.mark.parametrize("optimizer", ["default", "Adam"])
def test_what_the_user_says_stands(kind: type, optimizer: str) -> None:
    assert settings(kind(optimizer=optimizer, **EXPLICIT)) == (0.0, "cosine", 2.0)


@pytest.mark.parametrize("kind", [LearnConfig, IclConfig, MetaTrainConfig, PopulationConfig, LivesConfig])
def test_settings_written_in_full_are_read_as_they_are(kind: type, tmp_path: Path) -> None:
    written = to_plain(kind()) | EXPLICIT | {"optimizer": "default"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(written))
    found = read_config(tmp_path / "config.yaml", kind)
    assert to_plain(found) == written and settings(found) == (0.0, "cosine", 2.0)


def test_a_recipe_in_the_box_leaves_nothing_open() -> None:
    recipe = read_config(recipe_file("default"))
    assert recipe.resolved() == recipe and settings(recipe) == (0.02, "cosine", None)


def test_members_of_a_population_begin_about_the_rate_of_their_optimizer() -> None:
    for optimizer, rate in (("default", 1.0), ("Adam", 1e-2)):
        member = PopulationConfig(optimizer=optimizer, spread=1.0).member(2)
        assert (member.lr, member.schedule) == (rate, "constant")


def test_only_optimizers_are_classes_of_torch() -> None:
    assert torch_class("AdamW") is torch.optim.AdamW
    for name in ("default", "adamw", "lr_scheduler", "swa_utils", "runs/Adam", ""):
        assert torch_class(name) is None

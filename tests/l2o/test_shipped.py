"""The optimizers that come with the package: whole, told of, and of use at once."""

from importlib import resources

import pytest
import torch
from torch import nn

import l2o
from l2o.load import names
from l2o.tasks.data import digits
from l2o.types import seeded

WEIGHTS = resources.files("l2o") / "weights"
SHIPPED = sorted(file.name.removesuffix(".safetensors") for file in WEIGHTS.iterdir() if file.name.endswith("tensors"))


def trained(make_optimizer, steps: int = 150) -> tuple[float, float]:
    """Loss of a perceptron for digits over the first steps and over the last ones."""
    part, generator, losses = digits().train, seeded(0), []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = make_optimizer(model.parameters())
    for _ in range(steps):
        x, y = part.draw(generator, 64)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(**({"loss": loss} if isinstance(optimizer, l2o.LearnedOptimizer) else {}))
        losses.append(loss.item())
    return sum(losses[:10]) / 10, sum(losses[-10:]) / 10


def test_the_default_is_there() -> None:
    assert "default" in SHIPPED and set(SHIPPED) <= set(names())
    assert l2o.LearnedOptimizer([nn.Parameter(torch.ones(2))]).rule.config == l2o.load("default").config


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_optimizer_has_a_recipe_and_a_card(name: str) -> None:
    assert (WEIGHTS / f"{name}.yaml").is_file()
    card = (WEIGHTS / f"{name}.md").read_text()
    assert all(f"## {part}" in card for part in ("What it is", "Trained on", "Cost", "Where it wins", "Where it loses"))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_optimizer_trains_a_small_network_untuned(name: str) -> None:
    first, last = trained(lambda params: l2o.LearnedOptimizer(params, name, total_steps=100), 100)
    assert last < (0.4 if name == "ppo" else 0.25) * first  # that one knows agents only


def test_the_default_ends_below_adamw_at_its_default() -> None:
    ours = trained(lambda params: l2o.LearnedOptimizer(params, total_steps=150))[1]
    assert ours < 0.5 * trained(lambda params: torch.optim.AdamW(params, 1e-3))[1]

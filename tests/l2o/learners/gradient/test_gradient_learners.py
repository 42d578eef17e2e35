"""What all gradient-based rules promise on networks of images, beside the contracts of learners on vectors."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.func import functional_call, grad, vmap

import l2o
from l2o.learners import (
    CAVIA,
    IMAML,
    MAML,
    Adaptation,
    Conv4,
    FiLMConv4,
    Learner,
    MAMLPlusPlus,
    MetaCurvature,
    MetaLSTMRule,
    MetaSGD,
    StepRates,
    meta_grad,
    shapes_of,
)
from l2o.rules import SGD, UpdateRule
from l2o.tasks.episodes import Episode, Examples
from l2o.types import seeded, tree_map

WAY, NUM = 3, 2


def conv() -> Conv4:
    return Conv4(WAY, width=2, size=8, depth=2)


LEARNERS: dict[str, Callable[[], Learner]] = {
    "maml": lambda: MAML(conv()),
    "maml++": lambda: MAMLPlusPlus(conv(), num_steps=2),
    "imaml": lambda: IMAML(conv(), strength=0.5),
    "cavia": lambda: CAVIA(FiLMConv4(conv(), num_context=4, block=1), num_context=4),
}
RULES: dict[str, Callable[[Learner], UpdateRule]] = {
    "sgd": lambda learner: SGD(0.1),
    "meta-sgd": lambda learner: MetaSGD(shapes_of(learner), lr=(0.005, 0.1)),
    "meta-curvature": lambda learner: MetaCurvature(shapes_of(learner), lr=0.1),
    "step-rates": lambda learner: StepRates(shapes_of(learner), num_steps=2, lr=0.1),
    "meta-lstm": lambda learner: MetaLSTMRule(hidden_size=3),
}

every_learner = pytest.mark.parametrize("learner", LEARNERS)
every_rule = pytest.mark.parametrize("rule", RULES)


def make(learner: str, rule: str, order: str = "full") -> Adaptation:
    """An adaptation in float64 from seed 0, theta moved off its start, where parts are zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = LEARNERS[learner]()
        made = Adaptation(fresh, RULES[rule](fresh), 2, order).double()
        for p in made.parameters():
            p.data += 0.1 * torch.randn_like(p)
    return made


def episodes() -> Episode:
    x = torch.rand(NUM, 12, 1, 8, 8, generator=seeded(7)).double()
    y = torch.arange(WAY).repeat(2).expand(NUM, -1)
    return Episode(Examples(x[:, :6], y), Examples(x[:, 6:], y))


@every_learner
@every_rule
def test_all_ways_have_one_meta_gradient(learner: str, rule: str) -> None:
    """One by one, side by side, in chunks, from outside a vmap (where torch's batch norm is wrong), by differences."""
    adaptation, given = make(learner, rule), episodes()
    loop = meta_grad(adaptation, given, batching="loop").grads
    theta = {name: p.detach() for name, p in adaptation.named_parameters() if p.requires_grad}

    def mean_loss(theta: dict[str, torch.Tensor]) -> torch.Tensor:
        return vmap(lambda episode: functional_call(adaptation, theta, (episode,)).loss)(given).mean()

    ways = [meta_grad(adaptation, given, batching=batching).grads for batching in ("vmap", "chunk:1")]
    for other in (*ways, grad(mean_loss)(theta)):
        assert other.keys() == loop.keys() == theta.keys()
        for name, expected in loop.items():
            torch.testing.assert_close(other[name], expected, rtol=1e-10, atol=1e-10, msg=name)
    for i in range(2):
        names = [name for name in theta if name.startswith("rule.") == bool(i)]
        direction = {name: torch.randn(theta[name].shape, generator=seeded(j)).double() for j, name in enumerate(names)}
        # a step so small that no relu changes sides, where steps before would jump
        along = sum((loop[name] * d).sum() for name, d in direction.items())

        def loss_at(size: float, direction: dict[str, torch.Tensor] = direction) -> torch.Tensor:
            moved = {name: theta[name] + size * d for name, d in direction.items()}
            return mean_loss({**theta, **moved})

        assert along.abs() > 1e-6
        torch.testing.assert_close(along, (loss_at(1e-7) - loss_at(-1e-7)) / 2e-7, rtol=1e-5, atol=1e-8)


@every_learner
@pytest.mark.parametrize("order", ["first", "truncated:1", "implicit:3"])
def test_batching_makes_no_difference_in_other_orders(learner: str, order: str) -> None:
    adaptation, given = make(learner, "sgd", order), episodes()
    loop = meta_grad(adaptation, given, batching="loop")
    for batching in ("vmap", "chunk:1"):
        other = meta_grad(adaptation, given, batching=batching)
        torch.testing.assert_close(other.losses, loop.losses, rtol=1e-12, atol=1e-12)
        for name, expected in loop.grads.items():
            torch.testing.assert_close(other.grads[name], expected, rtol=1e-9, atol=1e-10, msg=name)


@every_learner
@every_rule
def test_save_and_load_give_the_same(learner: str, rule: str, tmp_path: Path) -> None:
    adaptation, given = make(learner, rule).float(), tree_map(lambda x: x[0], episodes())
    given = tree_map(lambda x: x.float() if x.is_floating_point() else x, given)
    l2o.save(adaptation, tmp_path / "learner.safetensors")
    again = l2o.load(tmp_path / "learner.safetensors")
    assert torch.equal(again(given).loss, adaptation(given).loss)
    trained = [name for name, p in again.named_parameters() if p.requires_grad]
    assert trained == [name for name, p in adaptation.named_parameters() if p.requires_grad]


@every_learner
@every_rule
def test_it_runs_in_half_precision_and_on_any_device(learner: str, rule: str) -> None:
    adaptation = make(learner, rule).to("meta", torch.bfloat16)
    given = tree_map(lambda x: x[0].to("meta"), episodes())
    given = tree_map(lambda x: x.bfloat16() if x.is_floating_point() else x, given)
    loss = adaptation(given).loss
    loss.backward()
    assert (loss.device.type, loss.dtype) == ("meta", torch.bfloat16)

from typing import Any

import pytest
import torch
from torch import nn

from l2o.learners import MAML, MLP, Adaptation, MetaLSTMRule, PrototypicalNetwork, meta_grad
from l2o.rules import SGD, Adam, Momentum
from l2o.rules.base import OptState
from l2o.tasks.episodes import Episode, Examples
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.types import Params, seeded, tree_map


def regression(num: int = 3) -> Episode:
    x = torch.randn(num, 8, 3, dtype=torch.float64, generator=seeded(0))
    w = torch.randn(num, 3, 1, dtype=torch.float64, generator=seeded(1))
    y = x @ w
    return Episode(Examples(x[:, :4], y[:, :4]), Examples(x[:, 4:], y[:, 4:]))


@pytest.fixture
def learner() -> MAML:
    return MAML(MLP([3, 4, 1])).double()


RULES = {
    "sgd": lambda: SGD(0.05),
    "momentum": lambda: Momentum(0.05),
    "adam": lambda: Adam(0.05),
    "meta-lstm": lambda: MetaLSTMRule(3),
}
every_rule = pytest.mark.parametrize("rule", RULES)


@every_rule
@pytest.mark.parametrize("order", ["full", "first", "truncated:2"])
def test_recomputing_gives_the_same_gradient(learner: MAML, rule: str, order: str) -> None:
    kept = Adaptation(learner, RULES[rule](), 4, order).double()
    again = Adaptation(learner, kept.rule, 4, order, recompute=True)
    a, b = meta_grad(kept, regression(), batching="loop"), meta_grad(again, regression())
    assert torch.equal(b.losses, a.losses)
    for name, grad in a.grads.items():
        if rule == "meta-lstm":  # its theta enters a step many times: the same terms are summed in another order
            torch.testing.assert_close(b.grads[name], grad, rtol=1e-10, atol=1e-15)
        else:
            assert torch.equal(b.grads[name], grad), name
    with pytest.raises(ValueError, match="batching='loop'"):
        meta_grad(again, regression(), batching="vmap")


@every_rule
def test_as_many_steps_as_there_are_or_more_are_no_truncation(learner: MAML, rule: str) -> None:
    full = Adaptation(learner, RULES[rule](), 3).double()
    expected = meta_grad(full, regression()).grads
    for num in (3, 8):
        found = meta_grad(Adaptation(learner, full.rule, 3, f"truncated:{num}"), regression()).grads
        assert all(torch.equal(found[name], grad) for name, grad in expected.items())
    fewer = meta_grad(Adaptation(learner, full.rule, 3, "truncated:2"), regression()).grads
    assert any(not torch.allclose(fewer[name], grad) for name, grad in expected.items())


def test_episodes_that_explode_are_left_out_of_the_mean() -> None:
    adaptation = Adaptation(MAML(MLP([3, 4, 1])), SGD(0.1), 1).double()
    episodes = regression()
    episodes.support.x[1] = float("inf")
    alone = meta_grad(adaptation, tree_map(lambda x: x[[0, 2]], episodes))
    for batching in ("loop", "vmap", "chunk:2", "chunk:1"):
        found = meta_grad(adaptation, episodes, batching=batching)
        assert found.finite.tolist() == [True, False, True]
        for name, grad in alone.grads.items():
            torch.testing.assert_close(found.grads[name], grad)
    every = meta_grad(adaptation, tree_map(lambda x: x[[1, 1]], episodes), batching="vmap")
    assert not every.finite.any() and all(not grad.any() for grad in every.grads.values())


def test_unknown_batching_is_refused() -> None:
    adaptation = Adaptation(MAML(MLP([3, 4, 1])), SGD(0.1), 1).double()
    for batching in ("both", "chunk:", "chunk:0"):
        with pytest.raises(ValueError, match="batching must be"):
            meta_grad(adaptation, regression(), batching=batching)


def test_classes_are_counted_one_support_set_at_a_time() -> None:
    support = Examples(torch.randn(4, 3, generator=seeded(0)), torch.tensor([0, 1, 2, 1]))
    learner = PrototypicalNetwork(MLP([3, 2]))
    assert learner.start(support)["prototypes"].shape == (3, 2)
    many = tree_map(lambda x: torch.stack([x, x]), Episode(support, support))
    assert meta_grad(Adaptation(learner), many).losses.shape == (2,)  # auto: one by one
    with pytest.raises(ValueError, match="way must be given"):
        meta_grad(Adaptation(learner), many, batching="vmap")


@pytest.mark.compiled
def test_compiled_gradients_equal_eager_ones() -> None:
    adaptation = Adaptation(MAML(MLP([3, 4, 1])), SGD(0.1), 2).double()
    a = meta_grad(adaptation, regression(), batching="vmap")
    b = meta_grad(adaptation, regression(), batching="vmap", compile=True)
    for name, grad in a.grads.items():
        torch.testing.assert_close(b.grads[name], grad, rtol=1e-10, atol=1e-12)


def test_recordings_equal_what_is_not_recorded_and_follow_settings_and_shapes() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    adaptation = Adaptation(MAML(network), SGD(0.1), 2).double()
    adaptation.rule.requires_grad_(False)

    def check() -> None:
        expected = meta_grad(adaptation, regression(), batching="vmap")
        found = meta_grad(adaptation, regression(), batching="vmap", trace=True)
        for name, grad in expected.grads.items():
            torch.testing.assert_close(found.grads[name], grad, rtol=1e-10, atol=1e-12)
            assert not found.grads[name].requires_grad
        torch.testing.assert_close(found.losses, expected.losses)

    check()
    check()
    adaptation.steps = 3
    check()
    adaptation.order = "first"
    check()
    with torch.no_grad():
        adaptation.rule.log_lr.add_(1.0)  # frozen, read through the module
        network[0].weight.mul_(2.0)
    check()
    network[1] = nn.Tanh()
    check()
    fewer = tree_map(lambda x: x[:2], regression())
    a, b = (meta_grad(adaptation, fewer, batching="vmap", trace=trace) for trace in (False, True))
    torch.testing.assert_close(a.losses, b.losses)


def test_two_ways_at_once_are_refused() -> None:
    adaptation = Adaptation(MAML(MLP([3, 4, 1])), SGD(0.1), 2).double()
    with pytest.raises(ValueError, match="compile and trace are two ways"):
        meta_grad(adaptation, regression(), compile=True, trace=True)


class LossScaled(SGD):
    """Steps as long as the loss is high."""

    def forward(self, grads: Params, state: OptState, params: Params, loss: torch.Tensor | None = None) -> Any:
        updates, state = super().forward(grads, state, params)
        assert loss is not None
        return {name: loss * update for name, update in updates.items()}, state


def test_first_order_takes_the_loss_as_a_constant_too() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adaptation = Adaptation(MAML(MLP([16, 6, 5])), LossScaled(0.1), 3, "first").double()
    given = GaussianClasses().sample_many(seeded(0), 2)
    given = tree_map(lambda x: x.double() if x.is_floating_point() else x, given)
    loop, batched = (meta_grad(adaptation, given, batching=b).grads for b in ("loop", "vmap"))
    for name, value in loop.items():
        torch.testing.assert_close(batched[name], value, rtol=1e-9, atol=1e-12)


def test_dropout_goes_through_vmap() -> None:
    network = nn.Sequential(nn.Linear(16, 8), nn.Dropout(0.5), nn.Linear(8, 5))
    found = meta_grad(Adaptation(MAML(network), SGD(0.1), 1), GaussianClasses().sample_many(seeded(0), 3))
    assert found.finite.all() and len(set(found.losses.tolist())) == 3

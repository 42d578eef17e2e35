"""That the meta-gradient of every learner, with every rule, is one, however it is computed and by whatever library."""

import warnings
from typing import Any

import pytest
import torch
from test_learners import NUM, RULES, assert_same, episodes, every_learner, make, one
from torch import Tensor, nn

from l2o.learners import Adaptation, meta_grad
from l2o.optim import LearnedOptimizer
from l2o.rules import OptState, UpdateRule
from l2o.tasks.episodes import Episode
from l2o.types import seeded, tree_map

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its docstrings (2020) have escapes that newer Pythons warn of
    higher = pytest.importorskip("higher")
    import l2o.higher  # noqa: F401 - by which it knows our optimizer

every_rule = pytest.mark.parametrize("rule", RULES)


@every_learner
@every_rule
def test_all_ways_have_one_meta_gradient(learner: str, rule: str) -> None:
    """Episodes in a loop, side by side, in chunks; `higher`, TorchOpt; finite differences."""
    adaptation, given = make(learner, rule), episodes()
    loop = assert_batching_makes_no_difference(adaptation, given)
    assert any(grad.abs().max() > 1e-6 for grad in loop.values())
    for oracle in (by_higher, by_torchopt):
        loss = torch.stack([oracle(adaptation, one(i, given)) for i in range(NUM)]).mean()
        trained = [p for p in adaptation.parameters() if p.requires_grad]
        found = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
        assert_same(dict(zip(loop, found, strict=True)), loop)
    theta = {name: p.detach() for name, p in adaptation.named_parameters() if p.requires_grad}
    direction = {name: torch.randn(p.shape, generator=seeded(i)).to(p) for i, (name, p) in enumerate(theta.items())}

    def loss_at(size: float) -> Tensor:
        moved = {name: p + size * direction[name] for name, p in theta.items()}
        return meta_grad(adaptation, given, moved).losses.mean()

    along = sum((loop[name] * direction[name]).sum() for name in theta)
    torch.testing.assert_close(along, (loss_at(1e-6) - loss_at(-1e-6)) / 2e-6, rtol=2e-5, atol=1e-7)


@every_learner
@pytest.mark.parametrize("order", ["first", "truncated:1", "implicit:3"])
def test_batching_makes_no_difference_in_other_orders(learner: str, order: str) -> None:
    adaptation, given = make(learner, "momentum", order=order), episodes()
    grads = assert_batching_makes_no_difference(adaptation, given)
    # where all weights adapt and nothing holds them back, the end of a minimisation does not depend on its beginning
    moves = order != "implicit:3" or learner not in ("maml", "hypernetwork", "cnaps")
    assert any(grad.abs().max() > 1e-6 for grad in grads.values()) == moves


@every_learner
def test_batching_makes_no_difference_without_steps(learner: str) -> None:
    adaptation, given = make(learner, steps=0), episodes()
    grads = assert_batching_makes_no_difference(adaptation, given)
    assert any(grad.abs().max() > 1e-6 for grad in grads.values())


def test_an_episode_that_is_not_finite_is_left_out_without_steps() -> None:
    adaptation, given = make("prototypical", steps=0), episodes()
    given.support.x[0] = float("nan")
    found, alone = (
        meta_grad(adaptation, given, batching="vmap"),
        meta_grad(adaptation, tree_map(lambda x: x[1:], given)),
    )
    assert found.finite.tolist() == [False, True]
    assert_same(found.grads, alone.grads)


def assert_batching_makes_no_difference(adaptation: Adaptation, given: Episode) -> dict[str, Tensor]:
    loop = meta_grad(adaptation, given, batching="loop")
    for batching in ("vmap", "chunk:1"):
        other = meta_grad(adaptation, given, batching=batching)
        assert_same(other.grads, loop.grads)
        torch.testing.assert_close(other.losses, loop.losses, rtol=1e-12, atol=1e-12)
        assert torch.equal(other.scores, loop.scores)
    return loop.grads


class Holder(nn.Module):
    """Fast variables as a module's parameters, which other libraries move."""

    def __init__(self, fast: dict[str, Tensor]) -> None:
        super().__init__()
        self.names = list(fast)
        for i, value in enumerate(fast.values()):
            self.register_parameter(f"p{i}", nn.Parameter(value.detach().clone()))

    def forward(self) -> dict[str, Tensor]:
        return {name: getattr(self, f"p{i}") for i, name in enumerate(self.names)}


class Named(UpdateRule):
    """A rule that is told the fast variables' names again, which an optimizer of torch does not keep."""

    def __init__(self, rule: UpdateRule, names: list[str]) -> None:
        super().__init__()
        self.rule, self.names = rule, names

    def init(self, params: dict[str, Tensor], total_steps: Any = None) -> OptState:
        return self._back(self.rule.init(self._named(params), total_steps), params)

    def forward(self, grads: Any, state: OptState, params: Any, loss: Any = None) -> Any:
        named = state._replace(slots=self._named(state.slots))
        updates, after = self.rule(self._named(grads), named, self._named(params), loss)
        return {key: updates[name] for key, name in zip(params, self.names, strict=True)}, self._back(after, params)

    def _named(self, tree: Any) -> Any:
        return dict(zip(self.names, tree.values(), strict=True))

    def _back(self, state: OptState, params: Any) -> OptState:
        return state._replace(slots={key: state.slots[name] for key, name in zip(params, self.names, strict=True)})


def started(adaptation: Adaptation, episode: Episode) -> dict[str, Tensor]:
    """The fast variables, differentiable even where nothing leads to them, as the other libraries want them.

    Views, because one may have been made from another, which the gradient is not to see.
    """
    fast = adaptation.learner.start(episode.support)
    return {
        name: value.view_as(value) if value.requires_grad else value.detach().requires_grad_()
        for name, value in fast.items()
    }


def by_higher(adaptation: Adaptation, episode: Episode) -> Tensor:
    fast = started(adaptation, episode)
    holder = Holder(fast)
    assert adaptation.rule is not None
    optimizer = LearnedOptimizer(holder.parameters(), Named(adaptation.rule, list(fast)), total_steps=adaptation.steps)
    with higher.innerloop_ctx(holder, optimizer, copy_initial_weights=False) as (moving, step):
        moving.update_params(list(fast.values()))
        for _ in range(adaptation.steps):
            fast = moving()
            loss = adaptation.learner.inner_loss(fast, episode.support)
            # what the loss does not depend on (MANN's usage only orders) has a gradient of zero; none would be skipped
            step.step(loss + sum(0.0 * value.sum() for value in fast.values()))
        return adaptation.learner.query_loss(moving(), episode.query)


def by_torchopt(adaptation: Adaptation, episode: Episode) -> Tensor:
    torchopt = pytest.importorskip("torchopt")
    learner, rule = adaptation.learner, adaptation.rule
    assert rule is not None
    fast = started(adaptation, episode)
    holder, names, losses = Holder(fast), list(fast), []
    for i, value in enumerate(fast.values()):
        holder._parameters[f"p{i}"] = value  # as TorchOpt itself does

    def update(grads: Any, state: Any, *, params: Any, inplace: bool) -> Any:
        grads = [torch.zeros_like(p) if g is None else g for g, p in zip(grads, params, strict=True)]
        named = (dict(zip(names, values, strict=True)) for values in (grads, params))
        steps, state = rule(next(named), state, next(named), losses[-1])
        return tuple(steps.values()), state

    rules = torchopt.base.GradientTransformation(
        lambda params: rule.init(dict(zip(names, params, strict=True)), adaptation.steps), update
    )
    optimizer = torchopt.MetaOptimizer(holder, rules)
    for _ in range(adaptation.steps):
        losses.append(learner.inner_loss(holder(), episode.support))
        optimizer.step(losses[-1])
    return learner.query_loss(holder(), episode.query)

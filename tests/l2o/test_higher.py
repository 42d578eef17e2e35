import warnings

import pytest
import torch
from torch import Tensor, nn

from l2o.inner_loop import InnerLoop
from l2o.optim import LearnedOptimizer
from l2o.rules import Adam, AdamW, LSTMRule, MLPRule, Momentum, OptState, UpdateRule, VeLO
from l2o.rules.base import zero_step
from l2o.tasks.base import Task
from l2o.types import Params, seeded

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its docstrings (2020) have escapes that newer Pythons warn of
    higher = pytest.importorskip("higher")
    import l2o.higher  # noqa: F401

X, Y = (
    torch.randn(6, 3, dtype=torch.float64, generator=seeded(1)),
    torch.randn(6, 1, dtype=torch.float64, generator=seeded(2)),
)


class ByLoss(UpdateRule):
    """Steps in proportion to the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.1))

    def init(self, params: Params, total_steps: int | None = None) -> OptState:
        return OptState(zero_step(params), {key: {"previous": torch.zeros_like(p)} for key, p in params.items()}, {})

    def forward(
        self, grads: Params, state: OptState, params: Params, loss: Tensor | None = None
    ) -> tuple[Params, OptState]:
        updates = {key: -self.rate * loss * (g + state.slots[key]["previous"]) for key, g in grads.items()}
        return updates, OptState(state.step + 1, {key: {"previous": g} for key, g in grads.items()}, state.shared)


RULES = {
    "by_loss": ByLoss,
    "momentum": lambda: Momentum(lr=0.1, nesterov=True),
    "adam": lambda: Adam(lr=0.1),
    "adamw": lambda: AdamW(lr=0.1),
    "lstm": lambda: LSTMRule(hidden_size=4),
    "mlp": lambda: MLPRule(step_scale=0.1),
    "velo": lambda: VeLO(lstm_hidden_size=4, num_bank=2, step_scale=0.1),
}
every_rule = pytest.mark.parametrize("name", RULES)


class Network(Task):
    """A small regression, as a task for our loop; `model` is the same as a module for higher."""

    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    def init(self, generator: torch.Generator) -> Params:
        return {key: p.detach().clone() for key, p in self.model.named_parameters()}

    def sample_batch(self, generator: torch.Generator) -> None:
        return None

    def loss(self, params: Params, batch: None) -> Tensor:
        return (torch.func.functional_call(self.model, params, X) - Y).square().mean()


def make(name: str) -> UpdateRule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rule = RULES[name]().double()
        for p in rule.parameters():
            p.data += 0.1 * torch.randn_like(p)
    return rule


def ours(rule: UpdateRule) -> tuple[Tensor, ...]:
    """Gradients of theta, then of the initial weights, through 3 steps."""
    loop, theta = InnerLoop(Network(), rule), dict(rule.named_parameters())
    start = loop.reset(seeded(0), total_steps=5)
    for p in start.params.values():
        p.requires_grad_()
    final, _ = loop.unroll(theta, start, [None] * 3)
    return torch.autograd.grad(loop.task.loss(final.params, None), [*theta.values(), *start.params.values()])


def with_higher(rule: UpdateRule, theta: dict[str, Tensor] | None) -> tuple[Tensor, ...]:
    model = Network.model
    optimizer = LearnedOptimizer(model.parameters(), rule, total_steps=5)
    override = None if theta is None else {"theta": [theta]}
    context = higher.innerloop_ctx(model, optimizer, copy_initial_weights=False, override=override)
    with context as (fmodel, diffopt):
        for _ in range(3):
            diffopt.step((fmodel(X) - Y).square().mean())
        loss = (fmodel(X) - Y).square().mean()
        wanted = theta or dict(rule.named_parameters())
        return torch.autograd.grad(loss, [*wanted.values(), *model.parameters()])


@every_rule
@pytest.mark.parametrize("explicit", [False, True])
def test_meta_gradients_equal_ours(name: str, explicit: bool) -> None:
    rule = make(name)
    theta = {key: p.detach().clone().requires_grad_() for key, p in rule.named_parameters()} if explicit else None
    expected, got = ours(rule), with_higher(rule, theta)
    assert any(g.abs().max() > 1e-4 for g in expected[: len(list(rule.parameters()))])
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@every_rule
def test_unrolled_steps_equal_those_of_the_optimizer_and_start_from_its_state(name: str) -> None:
    rule = make(name)
    torch.manual_seed(0)
    model = nn.Linear(3, 1).double()
    optimizer = LearnedOptimizer(model.parameters(), rule, lr=0.5, weight_decay=0.3, total_steps=9)

    def loss(net: nn.Module) -> Tensor:
        return (net(X) - Y).square().mean()

    for i in range(4):
        if i == 2:
            with higher.innerloop_ctx(model, optimizer) as (fmodel, diffopt):
                diffopt.step(loss(fmodel))
                diffopt.step(loss(fmodel))
                unrolled = [p.detach() for p in fmodel.parameters()]
        optimizer.zero_grad()
        value = loss(model)
        value.backward()
        optimizer.step(loss=value)
    for a, b in zip(model.parameters(), unrolled, strict=True):
        torch.testing.assert_close(a.detach(), b)


def test_without_tracking_no_graph_grows() -> None:
    model, rule = nn.Linear(3, 1).double(), make("adam")
    optimizer = LearnedOptimizer(model.parameters(), rule)
    with higher.innerloop_ctx(model, optimizer, track_higher_grads=False) as (fmodel, diffopt):
        for _ in range(2):
            diffopt.step((fmodel(X) - Y).square().mean())
        assert all(p.grad_fn is None for p in fmodel.parameters())
        assert not any(x.requires_grad for state in diffopt.state[0].values() for x in state.values())


def test_theta_must_be_whole_and_one() -> None:
    model, rule = nn.Linear(3, 1).double(), make("adam")
    a, b = model.parameters()
    optimizer = LearnedOptimizer([{"params": [a]}, {"params": [b]}], rule)
    theta = dict(rule.named_parameters())
    for override, match in (({"theta": [{}]}, "all parameters"), ({"theta": [theta, dict(theta)]}, "one for all")):
        with higher.innerloop_ctx(model, optimizer) as (fmodel, diffopt), pytest.raises(ValueError, match=match):
            diffopt.step(fmodel(X).square().mean(), override=override)


def test_the_learning_rate_can_be_overridden_and_differentiated() -> None:
    model, lr = nn.Linear(3, 1).double(), torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    optimizer = LearnedOptimizer(model.parameters(), Adam(lr=0.1).double())

    def after(lr: Tensor) -> Tensor:
        with higher.innerloop_ctx(model, optimizer, override={"lr": [lr]}) as (fmodel, diffopt):
            diffopt.step((fmodel(X) - Y).square().mean())
            return (fmodel(X) - Y).square().mean()

    assert torch.autograd.gradcheck(after, lr)

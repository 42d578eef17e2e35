"""What LearnedOptimizer promises around every update rule: to behave as a torch.optim.Optimizer, and as the rule."""

import copy
import functools
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_rules import RESTLESS, RULES, make
from torch import Tensor, nn

from l2o.inner_loop import InnerLoop
from l2o.optim import LearnedOptimizer
from l2o.rules.base import UpdateRule
from l2o.tasks.base import Task
from l2o.types import seeded

every_rule = pytest.mark.parametrize("name", RULES)


def network(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    generator = seeded(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    return net.to(dtype)


def loss_of(net: nn.Module, seed: int = 0) -> Tensor:
    p = next(net.parameters())
    return net(torch.randn(5, 3, generator=seeded(seed)).to(p.dtype)).square().mean()


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> list[Tensor]:
    for i in range(first, first + steps):
        optimizer.zero_grad()
        loss = loss_of(net, seed=i)
        loss.backward()
        optimizer.step(loss=loss)
    return [p.detach().clone() for p in net.parameters()]


@functools.cache
def _made(name: str) -> UpdateRule:
    return make(name, trained=True)


def trained(name: str) -> UpdateRule:
    return copy.deepcopy(_made(name))


def wrap(params: Any, name: str, **kwargs: Any) -> LearnedOptimizer:
    return LearnedOptimizer(params, trained(name), total_steps=20, **kwargs)


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


class Bowl(Task):
    """Two tensors, full batch."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {key: torch.randn(*n, generator=generator).to(self.dtype) for key, n in (("w", (4, 3)), ("b", (4,)))}

    def sample_batch(self, generator: torch.Generator) -> None:
        return None

    def loss(self, params: dict[str, Tensor], batch: None) -> Tensor:
        return (params["w"].sum(dim=1) + params["b"]).square().mean()


@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_takes_the_same_steps_as_the_functional_form(name: str, dtype: torch.dtype) -> None:
    loop = InnerLoop(Bowl(dtype), trained(name).to(dtype))
    start = loop.reset(seeded(0), total_steps=20)
    ps = {key: nn.Parameter(x.clone()) for key, x in start.params.items()}
    final, _ = loop.unroll(dict(loop.rule.named_parameters()), start, [None] * 4)
    optimizer = LearnedOptimizer(ps.values(), loop.rule, total_steps=20)
    for _ in range(4):
        optimizer.zero_grad()
        loss = loop.task.loss(ps, None)
        loss.backward()
        optimizer.step(loss=loss)
    for key, p in ps.items():
        torch.testing.assert_close(p.detach(), final.params[key].detach())  # 1e-7 in float64


@every_rule
def test_parameters_move_in_place_and_gradients_stay(name: str) -> None:
    net = network()
    optimizer = wrap(net.parameters(), name)
    loss_of(net).backward()
    addresses = [p.data_ptr() for p in net.parameters()]
    before, grads = [p.detach().clone() for p in net.parameters()], [p.grad.clone() for p in net.parameters()]
    optimizer.step()
    assert addresses == [p.data_ptr() for p in net.parameters()]
    assert same(grads, [p.grad for p in net.parameters()])
    assert not any(torch.equal(a, p) for a, p in zip(before, net.parameters(), strict=True))
    assert not any(x.requires_grad for state in optimizer.state.values() for x in state.values())


@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_run_resumed_from_a_checkpoint_equals_the_run_that_never_stopped(name: str, dtype: torch.dtype) -> None:
    net, other = network(dtype=dtype), network(seed=1, dtype=dtype)
    optimizer, resumed = wrap(net.parameters(), name), wrap(other.parameters(), name)
    train(net, optimizer, 3)
    file = io.BytesIO()
    torch.save([net.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    for a, b in zip(optimizer.state.values(), resumed.state.values(), strict=True):
        assert {key: x.dtype for key, x in a.items()} == {key: x.dtype for key, x in b.items()}
    assert same(train(net, optimizer, 3, first=3), train(other, resumed, 3, first=3))


@every_rule
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_and_pickles_go_on_alike(name: str, clone: Callable) -> None:
    net = network()
    optimizer = wrap(net.parameters(), name, nonfinite="raise", weight_decay=0.1)
    train(net, optimizer, 2)
    twin, copied = clone((net, optimizer))
    assert copied.param_groups[0]["params"][0] is next(twin.parameters())
    assert (copied.total_steps, copied.nonfinite) == (20, "raise")
    assert same(train(net, optimizer, 2, first=2), train(twin, copied, 2, first=2))


@every_rule
def test_every_tensor_of_the_state_has_memory_of_its_own(name: str) -> None:
    """Checkpoints of torch.distributed are loaded into the tensors that are there."""
    optimizer = wrap((net := network()).parameters(), name)
    loss_of(net).backward()
    optimizer.step()  # without a loss, as those who only want the state do
    own = [x for state in optimizer.state.values() for key, x in state.items() if key != "step" and "shared" not in key]
    shared = [x for key, x in optimizer.state[next(net.parameters())].items() if key == "step" or "shared" in key]
    tensors = [x for x in [*own, *shared] if x.numel()]
    assert len({x.data_ptr() for x in tensors}) == len(tensors)


@every_rule
def test_grouping_changes_nothing(name: str) -> None:
    one, many = network(), network()
    a, *rest = many.parameters()
    optimizer = wrap([{"params": [a]}, {"params": rest, "lr": 1.0}], name)
    assert same(train(one, wrap(one.parameters(), name), 3), train(many, optimizer, 3))


@every_rule
def test_lr_multiplies_the_whole_step_and_zero_changes_nothing(name: str) -> None:
    moved = {}
    for lr in (1.0, 0.5, 0.0):
        net = network()
        before = [p.detach().clone() for p in net.parameters()]
        after = train(net, wrap(net.parameters(), name, lr=lr, weight_decay=0.3), 1)
        moved[lr] = [b - a for a, b in zip(before, after, strict=True)]
    for whole, half, none in zip(*moved.values(), strict=True):
        torch.testing.assert_close(half, whole / 2, rtol=1e-3, atol=1e-6)
        assert none.eq(0).all()


@every_rule
def test_zero_gradients_from_the_start_change_nothing(name: str) -> None:
    if name in RESTLESS:
        pytest.skip("it reads the parameters too")
    net = network()
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = wrap(net.parameters(), name)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert same(before, list(net.parameters()))
    assert all(int(state["step"]) == 1 for state in optimizer.state.values())


@every_rule
def test_parameters_may_join_and_rest(name: str) -> None:
    net, late = network(), nn.Parameter(torch.ones(3, 2))
    first, *_ = net.parameters()
    first.requires_grad_(False)
    optimizer = wrap(net.parameters(), name)
    start = first.detach().clone()
    train(net, optimizer, 2)
    assert torch.equal(first, start) and first not in optimizer.state
    first.requires_grad_(True)
    optimizer.add_param_group({"params": [late]})
    late.grad = torch.full_like(late, 0.1)
    loss_of(net).backward()
    optimizer.step()
    assert not torch.equal(first, start) and not torch.equal(late, torch.ones(3, 2))
    resting = late.detach().clone()
    late.grad = None
    train(net, optimizer, 1, first=3)
    assert torch.equal(late, resting)
    assert {int(state["step"]) for state in optimizer.state.values()} == {4}, "the optimizer's own step"
    optimizer.zero_grad()
    settled = [p.detach().clone() for p in net.parameters()]
    optimizer.step()
    assert same(settled, list(net.parameters()))


@every_rule
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_and_rounded_once(name: str, dtype: torch.dtype) -> None:
    half = nn.Parameter(torch.randn(4, 3, generator=seeded(0)).to(dtype))
    full = nn.Parameter(half.detach().float())
    optimizers = [wrap([half], name), wrap([full], name)]
    for i in range(3):
        full.data = half.detach().float()
        half.grad = torch.randn(4, 3, generator=seeded(i)).to(dtype)
        full.grad = half.grad.float()
        for optimizer in optimizers:
            optimizer.step()
        assert torch.equal(half.detach(), full.detach().to(dtype))
    assert all(x.dtype in (torch.float32, torch.int64) for x in optimizers[0].state[half].values())


@every_rule
def test_float64_parameters_are_computed_in_float64_by_a_float32_rule(name: str) -> None:
    net, optimizer = network(dtype=torch.float64), None
    rule = trained(name)
    optimizer = LearnedOptimizer(net.parameters(), rule, total_steps=20)
    exact = LearnedOptimizer(
        (other := network(dtype=torch.float64)).parameters(), copy.deepcopy(rule).double(), total_steps=20
    )
    left, right = train(net, optimizer, 3), train(other, exact, 3)
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)  # constants of the rule may have float32 precision
    assert all(p.dtype == torch.float32 for p in rule.parameters())


@every_rule
def test_complex_parameters_move_as_pairs_of_reals(name: str) -> None:
    p = nn.Parameter(torch.randn(3, 2, dtype=torch.complex64, generator=seeded(0)))
    q = nn.Parameter(torch.view_as_real(p.detach()).clone())
    optimizers = [wrap([p], name), wrap([q], name)]
    for i in range(3):
        p.grad = torch.randn(3, 2, dtype=torch.complex64, generator=seeded(i))
        q.grad = torch.view_as_real(p.grad).clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(torch.view_as_real(p.detach()), q.detach())


@every_rule
def test_sparse_gradients_count_as_dense_ones(name: str) -> None:
    tables = [nn.Embedding(6, 2, sparse=sparse) for sparse in (True, False)]
    tables[1].load_state_dict(tables[0].state_dict())
    for table in tables:
        optimizer = wrap(table.parameters(), name)
        for _ in range(2):
            optimizer.zero_grad()
            table(torch.tensor([1, 2, 2])).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(tables[0].weight, tables[1].weight)


@every_rule
def test_any_shape_and_memory_layout(name: str) -> None:
    shapes = [(), (0,), (3, 0), (1,), (5, 1), (2, 3, 3, 3)]
    ps = [nn.Parameter(torch.randn(shape, generator=seeded(0))) for shape in shapes]
    image = nn.Parameter(torch.randn(2, 3, 4, 4, generator=seeded(1)).to(memory_format=torch.channels_last))
    plain = nn.Parameter(image.detach().contiguous())
    for q in (image, plain):
        optimizer = wrap([*(nn.Parameter(p.detach().clone()) for p in ps), q], name)
        for i in range(2):
            for j, p in enumerate(optimizer.param_groups[0]["params"]):
                p.grad = torch.randn(p.shape, generator=seeded(10 * i + j))
            optimizer.step()
        assert all(p.isfinite().all() for p in optimizer.param_groups[0]["params"])
    assert image.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(image, plain)


@every_rule
def test_a_step_that_is_not_finite_changes_nothing(name: str) -> None:
    net = network()
    optimizer = wrap(net.parameters(), name)
    train(net, optimizer, 2)
    before = copy.deepcopy(optimizer.state_dict())
    weights = [p.detach().clone() for p in net.parameters()]
    loss_of(net).backward()
    list(net.parameters())[1].grad[0] = float("nan")
    with pytest.warns(RuntimeWarning, match="gradient of parameter 1"):
        optimizer.step()
    optimizer.step()  # told once
    optimizer.nonfinite = "raise"
    with pytest.raises(FloatingPointError, match="gradient of parameter 1"):
        optimizer.step()
    assert optimizer.skipped_steps == 2
    assert same(weights, list(net.parameters()))
    for i, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(x, before["state"][i][key]) for key, x in state.items())


@every_rule
def test_a_closure_gives_the_loss(name: str) -> None:
    net, other = network(), network()
    optimizer, closed = wrap(net.parameters(), name), wrap(other.parameters(), name)

    def closure() -> Tensor:
        closed.zero_grad()
        loss = loss_of(other)
        loss.backward()
        return loss

    with torch.no_grad():
        assert closed.step(closure) > 0
    assert same(train(net, optimizer, 1), list(other.parameters()))


@every_rule
def test_the_gradient_scaler_steps_and_skips(name: str) -> None:
    net, other = network(), network()
    optimizer, plain = wrap(other.parameters(), name), wrap(net.parameters(), name)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for i in range(3):
        optimizer.zero_grad()
        scaler.scale(loss_of(other, seed=i)).backward()
        if i == 2:
            next(other.parameters()).grad[0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
    for i in range(2):
        plain.zero_grad()
        loss_of(net, seed=i).backward()
        plain.step()
    assert same(list(net.parameters()), list(other.parameters()))
    assert optimizer.skipped_steps == 0, "the scaler skips, the optimizer is not called"

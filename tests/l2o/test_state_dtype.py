"""What a rule remembers, kept in bfloat16."""

import copy
import io
from collections.abc import Callable
from functools import partial

import pytest
import torch

from l2o import LearnedOptimizer
from l2o.kernels.build import without_kernels
from l2o.optim.state import narrowed
from l2o.rules import Adam, LearnedMuon, LSTMRule, MatrixRule, MLPRule, Momentum, OptState, Scaled, UpdateRule, VeLO
from l2o.types import seeded

RULES: dict[str, tuple[Callable[[], UpdateRule], tuple[str, ...]]] = {
    "momentum": (partial(Momentum, lr=1e-2), ("momentum",)),
    "adam": (partial(Adam, lr=1e-2), ("m", "v")),
    "lstm": (partial(LSTMRule, hidden_size=4), ("hidden",)),
    "mlp": (MLPRule, ("momenta", "second")),
    "matrix": (MatrixRule, ("momenta", "second")),
    "velo": (partial(VeLO, lstm_hidden_size=5, num_bank=3), ("momenta", "second")),
    "learned_muon": (LearnedMuon, ("momenta", "second")),
    "scaled": (lambda: Scaled(MLPRule()), ("momenta", "second")),
}
every_rule = pytest.mark.parametrize("name", RULES)
SHAPES = [(20, 30), (4, 3, 3, 3)]


def make(name: str) -> UpdateRule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rule = RULES[name][0]()
        for p in rule.parameters():
            p.data += 0.02 * torch.randn_like(p)
    return rule


def start(name: str, state_dtype: torch.dtype | None) -> tuple[LearnedOptimizer, list[torch.nn.Parameter]]:
    generator = seeded(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    return LearnedOptimizer(params, make(name), state_dtype=state_dtype), params


def train(optimizer: LearnedOptimizer, params: list[torch.nn.Parameter], steps: range) -> None:
    for i in steps:
        for k, p in enumerate(params):
            p.grad = 0.3 + torch.randn(p.shape, generator=seeded(100 * i + k))
        optimizer.step(loss=torch.tensor(1.0))


@every_rule
@pytest.mark.parametrize("kernels", [True, False])
def test_large_slots_are_bfloat16_and_training_hardly_differs(name: str, kernels: bool) -> None:
    ends = {}
    for dtype in (None, torch.bfloat16):
        optimizer, params = start(name, dtype)
        begin = torch.cat([p.detach().flatten() for p in params])
        if kernels:
            train(optimizer, params, range(30))
        else:
            with without_kernels():
                train(optimizer, params, range(30))
        ends[dtype] = torch.cat([p.detach().flatten() for p in params]) - begin
        for p in params:
            for key, x in optimizer.state[p].items():
                half = dtype is not None and key in RULES[name][1]
                assert x.dtype == torch.bfloat16 if half else x.dtype != torch.bfloat16
    difference = (ends[None] - ends[torch.bfloat16]).norm() / ends[None].norm()
    assert 0 < difference < 0.05


@every_rule
def test_a_resumed_run_equals_the_one_that_went_on(name: str) -> None:
    optimizer, params = start(name, torch.bfloat16)
    train(optimizer, params, range(5))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    kept = [p.detach().clone() for p in params]
    train(optimizer, params, range(5, 10))
    file.seek(0)
    again = [torch.nn.Parameter(x) for x in kept]
    resumed = LearnedOptimizer(again, make(name), state_dtype=torch.bfloat16)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    train(resumed, again, range(5, 10))
    assert all(torch.equal(p, q) for p, q in zip(params, again, strict=True))


@pytest.mark.parametrize("kernels", [True, False])
def test_an_average_of_small_changes_is_right_on_average(kernels: bool) -> None:
    """With decay .999 a step changes the average by less than half of bfloat16's last digit."""

    def momentum_after(steps: int) -> torch.Tensor:
        w = torch.nn.Parameter(torch.zeros(64, 64))
        optimizer = LearnedOptimizer([w], MLPRule(), state_dtype=torch.bfloat16)
        for _ in range(steps):
            w.grad = torch.ones(64, 64)
            optimizer.step()
        return optimizer.state[w]["momenta"][2].float()

    if kernels:
        found = momentum_after(600)
    else:
        with without_kernels():
            found = momentum_after(600)
    assert float(found.mean()) == pytest.approx(1 - 0.999**600, rel=2e-3)
    nearest = torch.zeros((), dtype=torch.bfloat16)
    for _ in range(600):
        nearest = torch.lerp(nearest.float(), torch.ones(()), 1e-3).to(torch.bfloat16)
    assert float(nearest) < 0.9 * (1 - 0.999**600), "rounding to the nearest would do as well"


def test_rounding_is_to_a_neighbour_and_keeps_what_is_exact() -> None:
    x = torch.tensor([0.0, -1.0, 1.0 + 2**-9, -(1.0 + 2**-9), float("inf"), float("nan"), 3.389e38, 1e-40])
    state = OptState(torch.tensor(3), {"w": {"m": x.expand(1000, 8)}}, {})
    y = narrowed(state, ("m",)).slots["w"]["m"].float()
    assert torch.equal(y[:, :2], x[:2].expand(1000, 2))
    assert set(y[:, 2].tolist()) == {1.0, 1.0 + 2**-7} and set(y[:, 3].tolist()) == {-1.0, -1.0 - 2**-7}
    assert float(y[:, 2].mean()) == pytest.approx(1.0 + 2**-9, abs=4e-4)
    assert y[:, 4].isposinf().all() and y[:, 5].isnan().all()
    assert torch.equal(y, narrowed(state, ("m",)).slots["w"]["m"].float()) or y.isnan().any()


def test_float32_state_is_taken_over_and_back() -> None:
    full, params = start("matrix", None)
    train(full, params, range(3))
    half, others = start("matrix", torch.bfloat16)
    half.load_state_dict(full.state_dict())
    train(half, others, range(3, 5))
    assert half.state[others[0]]["momenta"].dtype == torch.bfloat16
    full.load_state_dict(half.state_dict())
    train(full, params, range(3, 5))
    assert full.state[params[0]]["momenta"].dtype == torch.float32


@every_rule
def test_float64_and_complex_parameters_may_be_among_them(name: str) -> None:
    params = [torch.nn.Parameter(torch.ones(4, 3, dtype=dtype)) for dtype in (torch.float64, torch.complex64)]
    optimizer = LearnedOptimizer(params, make(name), state_dtype=torch.bfloat16)
    for _ in range(2):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step(loss=torch.tensor(1.0))
    assert optimizer.state[params[0]][RULES[name][1][0]].dtype == torch.bfloat16
    assert all(p.isfinite().all() and (p != 1).any() for p in params)


def test_copies_keep_the_setting_and_other_dtypes_are_refused() -> None:
    optimizer, _ = start("mlp", torch.bfloat16)
    assert copy.deepcopy(optimizer).state_dtype == torch.bfloat16
    for dtype in (torch.float16, torch.int8):
        with pytest.raises(ValueError, match=r"state_dtype must be torch\.bfloat16.*or None"):
            LearnedOptimizer([torch.nn.Parameter(torch.ones(2))], Adam(), state_dtype=dtype)

"""What every update rule promises. A new rule joins by one line in RULES."""

import copy
import json
import pickle
from collections.abc import Callable
from functools import partial

import functorch
import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.utils import _pytree

from l2o.inner_loop import InnerLoop
from l2o.rules import (
    OPEN,
    SGD,
    Adam,
    AdamW,
    Celo,
    CeloAdam,
    LearnedMuon,
    LSTMRule,
    MatrixRule,
    MLPRule,
    Momentum,
    Muon,
    OptState,
    Scaled,
    UpdateRule,
    VeLO,
)
from l2o.tasks.quadratic import Quadratics
from l2o.types import seeded, tree_leaves, tree_map, tree_stack

SMALL_VELO = partial(VeLO, lstm_hidden_size=5, num_bank=3)

RULES: dict[str, Callable[[], UpdateRule]] = {
    "sgd": SGD,
    "momentum": partial(Momentum, lr=1e-4),
    "nesterov": partial(Momentum, lr=1e-4, nesterov=True),
    "adam": Adam,
    "adamw": partial(AdamW, weight_decay=0.0),
    "muon": partial(Muon, weight_decay=0.0),
    "lstm": partial(LSTMRule, hidden_size=4),
    "rnnprop": partial(LSTMRule, hidden_size=4, inputs="rnnprop"),
    "lstm_rates": partial(LSTMRule, hidden_size=4, base_lr=1e-4),
    "mlp": MLPRule,
    "velo": SMALL_VELO,
    "matrix": MatrixRule,
    "matrix_published": partial(MatrixRule, residual=False, orthogonalize=True, vectors="learned"),
    "learned_muon": partial(LearnedMuon, steering_size=5),
    "celo": partial(Celo, lstm_hidden_size=5),
    "celo_adam": partial(CeloAdam, lstm_hidden_size=5),
    "open": partial(OPEN, hidden_size=6, gru_size=4),
    "scaled": lambda: Scaled(MLPRule(), lr=0.5),
}
GRADIENT_SIZED = {"sgd", "momentum", "nesterov", "lstm_rates"}  # a step in proportion to the gradient has no bound
MIXING = {"velo", "open", "learned_muon"}  # a tensor's step depends on the other tensors
RESTLESS = {"celo", "open"}  # as published, coordinates move that have never had a gradient
ORDERED = {"open"}  # its order tells which layer a tensor belongs to, and which noise it gets

SHAPES = [(), (0,), (3, 0), (1,), (5, 1), (4,), (2, 3, 4), (2, 3, 3, 3)]

every_rule = pytest.mark.parametrize("name", RULES)


def make(name: str, dtype: torch.dtype = torch.float32, trained: bool = False) -> UpdateRule:
    """A rule from seed 0; `trained` moves theta off its start, where parts are zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rule = RULES[name]().to(dtype)
        if trained:
            for p in rule.parameters():
                p.data += 0.1 * torch.randn_like(p)
    return rule


def draw(seed: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = seeded(seed)
    return {f"p{i}": scale * torch.randn(s, generator=generator, dtype=dtype) for i, s in enumerate(SHAPES)}


def run(rule: UpdateRule, params: dict, gradients: list[dict], total_steps: int | None = 10) -> tuple[dict, OptState]:
    """Parameters and state after one step for each gradient."""
    state = rule.init(params, total_steps)
    with torch.no_grad():
        for i, grads in enumerate(gradients):
            loss = torch.tensor(1.0 / (i + 1), dtype=next(iter(params.values())).dtype)
            updates, state = rule(grads, state, params, loss)
            params = {key: p + updates[key] for key, p in params.items()}
    return params, state


def close(left: object, right: object, **tolerance: float) -> None:
    torch.testing.assert_close(left, right, **tolerance)


@every_rule
def test_a_rule_is_pure(name: str) -> None:
    rule, params, grads = make(name), draw(1), draw(2)
    _, state = run(rule, params, [draw(3)])
    before = copy.deepcopy((params, grads, state))
    first = rule(grads, state, params, torch.tensor(1.0))
    second = rule(grads, state, params, torch.tensor(1.0))
    close(first, second, rtol=0, atol=0)
    close((params, grads, state), before, rtol=0, atol=0)


@every_rule
@pytest.mark.filterwarnings("ignore:.*functorch:FutureWarning")
@pytest.mark.parametrize("mapping", [vmap, functorch.vmap], ids=["torch.func", "functorch"])
def test_lanes_with_their_own_theta_equal_the_loop(name: str, mapping: Callable) -> None:
    rule = make(name, torch.float64)
    lanes = range(3)
    thetas = [
        {k: p + 0.1 * torch.randn(p.shape, generator=seeded(i)).double() for k, p in rule.named_parameters()}
        for i in lanes
    ]
    params, grads = [draw(i, torch.float64) for i in lanes], [draw(9 + i, torch.float64) for i in lanes]
    losses = torch.arange(3.0).double()
    lengths = torch.tensor([10.0, 100.0, 1000.0]).double()
    states = mapping(lambda p, t: rule.init(p, t))(tree_stack(params), lengths)

    def two_steps(theta: dict, grads: dict, state: OptState, params: dict, loss: torch.Tensor) -> tuple:
        _, state = functional_call(rule, theta, (grads, state, params, loss))
        return functional_call(rule, theta, (grads, state, params, loss))

    together = mapping(two_steps)(tree_stack(thetas), tree_stack(grads), states, tree_stack(params), losses)
    alone = [two_steps(thetas[i], grads[i], rule.init(params[i], lengths[i]), params[i], losses[i]) for i in lanes]
    close(together, tree_stack(alone))


@every_rule
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_state_keeps_its_structure_and_dtypes_and_updates_have_the_parameters(name: str, dtype: torch.dtype) -> None:
    rule = make(name, torch.promote_types(dtype, torch.float32))
    params = draw(1, dtype)
    state = rule.init(params, 10)
    start = describe(state)
    for loss in (torch.tensor(1.0, dtype=dtype), None):
        updates, state = rule(draw(2, dtype), state, params, loss)
        assert describe(state) == start
        assert {k: (u.dtype, u.shape) for k, u in updates.items()} == {k: (dtype, p.shape) for k, p in params.items()}
    low = {x.dtype for x in tree_leaves(state.slots)} - {torch.promote_types(dtype, torch.float32)}
    assert not low, "accumulators are float32 where parameters have less"


def describe(state: OptState) -> tuple:
    leaves, structure = _pytree.tree_flatten(state)
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves), "a state is tensors only"
    return structure, [(x.dtype, x.shape, x.device) for x in leaves]


@every_rule
def test_state_and_updates_stay_on_the_parameters_device(name: str) -> None:
    rule = make(name).to("meta")
    params, grads = tree_map(lambda x: x.to("meta"), (draw(1), draw(2)))
    state = rule.init(params, 10)
    for loss in (torch.tensor(1.0, device="meta"), None):
        updates, state = rule(grads, state, params, loss)
        assert {x.device.type for x in tree_leaves((updates, state))} == {"meta"}


@every_rule
def test_a_float64_rule_trains_float32_parameters_and_the_reverse(name: str) -> None:
    for rule_dtype, dtype in ((torch.float64, torch.float32), (torch.float32, torch.float64)):
        params, _ = run(make(name, rule_dtype), draw(1, dtype), [draw(2, dtype)] * 2)
        assert all(p.dtype == dtype for p in params.values())


@every_rule
def test_a_fresh_rule_is_harmless_on_a_quadratic(name: str) -> None:
    task = Quadratics(dim=10).sample(seeded(0))
    loop = InnerLoop(task, make(name))
    state = loop.reset(seeded(1), total_steps=100)
    with torch.no_grad():
        _, losses = loop.unroll(dict(loop.rule.named_parameters()), state, [None] * 100)
    assert losses.isfinite().all()
    assert losses.max() < 1.5 * losses[0]


@every_rule
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e20])
def test_a_fresh_rule_takes_small_finite_steps_for_any_gradient(name: str, scale: float) -> None:
    rule, params = make(name), draw(1)
    state = rule.init(params, 10)
    for seed in range(5):
        updates, state = rule(draw(2 + seed, scale=scale), state, params, torch.tensor(scale))
        assert all(x.isfinite().all() for x in tree_leaves((updates, state)))
        if name not in GRADIENT_SIZED:
            largest = max(float(u.detach().abs().max()) for u in updates.values() if u.numel())
            size = max(1.0, *(float(p.abs().max()) for p in params.values() if p.numel()))
            assert largest <= 10 * rule.nominal_lr * size


@every_rule
def test_ordinary_gradients_are_learned_from_after_a_huge_one(name: str) -> None:
    if name in GRADIENT_SIZED:
        pytest.skip("its momentum is the huge gradient")
    rule, params = make(name), draw(1)
    _, state = run(rule, params, [draw(2, scale=1e20), draw(3)])
    updates, _ = rule(draw(4), state, params, torch.tensor(1.0))
    assert all(u.isfinite().all() for u in updates.values())


@every_rule
def test_zero_gradients_from_the_start_move_nothing(name: str) -> None:
    if name in RESTLESS:
        pytest.skip("it reads the parameters too")
    rule, start = make(name, trained=True), draw(1)
    zeros = tree_map(torch.zeros_like, start)
    params, _ = run(rule, start, [zeros] * 3)
    close(params, start, rtol=0, atol=0)


@every_rule
def test_coordinates_without_gradient_stay(name: str) -> None:
    if name in RESTLESS:
        pytest.skip("it reads the parameters too")
    rule = make(name, trained=True)
    start = {"w": torch.ones(4, 3), "b": torch.ones(3)}
    mask = torch.tensor([1.0, 0.0, 1.0])
    params, _ = run(rule, start, [{"w": mask * torch.randn(4, 3, generator=seeded(0)), "b": mask}] * 3)
    for p in params.values():
        close(p[..., 1], torch.ones_like(p[..., 1]), rtol=0, atol=0)
        assert (p[..., 0] != 1).any()


@every_rule
def test_names_and_their_order_carry_no_meaning(name: str) -> None:
    if name in ORDERED:
        pytest.skip("the order of tensors is that of layers")
    rule = make(name, trained=True)
    params, _ = run(rule, draw(1), [draw(2), draw(3)])

    def rename(tree: dict) -> dict:
        return {f"other.{key}": tree[key] for key in reversed(tree)}

    renamed, _ = run(rule, rename(draw(1)), [rename(draw(2)), rename(draw(3))])
    close(renamed, rename(params))


@every_rule
def test_tensors_may_be_trained_in_separate_calls(name: str) -> None:
    if name in MIXING:
        pytest.skip("it mixes over tensors")
    rule = make(name, trained=True)
    keys = list(draw(1))
    together, _ = run(rule, draw(1), [draw(2), draw(3)])
    for part in (keys[:3], keys[3:]):
        apart, _ = run(rule, {k: draw(1)[k] for k in part}, [{k: draw(s)[k] for k in part} for s in (2, 3)])
        close(apart, {k: together[k] for k in part})


@every_rule
def test_meta_gradients_equal_finite_differences(name: str) -> None:
    rule = make(name, torch.float64, trained=True)
    loop = InnerLoop(Quadratics(dim=4, dtype=torch.float64).sample(seeded(0)), rule)
    start = loop.reset(seeded(1), total_steps=10)
    theta = {key: p.detach() for key, p in rule.named_parameters()}
    direction = {key: torch.randn(p.shape, generator=seeded(2), dtype=p.dtype) for key, p in theta.items()}

    def meta_loss(amount: torch.Tensor) -> torch.Tensor:
        moved = {key: p + amount * direction[key] for key, p in theta.items()}
        final, _ = loop.unroll(moved, start, [None] * 3)
        return loop.task.loss(final.params, None)

    step = 1e-5 if name != "velo" else 1e-6
    low, high = (meta_loss(torch.tensor(sign * step, dtype=torch.float64)) for sign in (-1, 1))
    exact = grad(meta_loss)(torch.tensor(0.0, dtype=torch.float64))
    close(exact, (high - low) / (2 * step), rtol=1e-4, atol=1e-9)


@every_rule
def test_meta_gradients_through_zero_gradients_are_finite_to_second_order(name: str) -> None:
    rule = make(name)
    start = {"w": torch.ones(3, 2), "b": torch.ones(3), "s": torch.ones(())}
    used = {"w": torch.tensor([[1.0, 0.0]]), "b": torch.tensor([1.0, 0.0, 0.0]), "s": torch.tensor(0.0)}
    theta = dict(rule.named_parameters())

    def meta_loss(theta: dict, start: dict) -> torch.Tensor:
        params, state = start, rule.init(start, 10)
        for _ in range(2):
            grads = {k: 2 * p * used[k] for k, p in params.items()}
            loss = sum((p.square() * used[k]).sum() for k, p in params.items())
            updates, state = functional_call(rule, theta, (grads, state, params, loss))
            params = {k: p + updates[k] for k, p in params.items()}
        return sum(p.square().sum() for p in params.values())

    inputs = [*theta.values(), *(p.requires_grad_() for p in start.values())]
    first = torch.autograd.grad(meta_loss(theta, start), inputs, create_graph=True, materialize_grads=True)
    assert all(g.isfinite().all() for g in first)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs, materialize_grads=True)
    assert all(g.isfinite().all() for g in second)


@every_rule
def test_a_rule_works_without_loss_and_without_the_length_of_the_run(name: str) -> None:
    rule, params = make(name, trained=True), draw(1)
    updates, state = rule(draw(2), rule.init(params), params)
    updates, _ = rule(draw(3), state, params, None)
    assert all(u.isfinite().all() for u in updates.values())


@every_rule
@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda rule: pickle.loads(pickle.dumps(rule))], ids=["copy", "pickle"]
)
def test_copies_and_pickles_take_the_same_steps(name: str, clone: Callable) -> None:
    rule = make(name, trained=True)
    other = clone(rule)
    assert list(other.config) == list(rule.config)
    close(run(other, draw(1), [draw(2)]), run(rule, draw(1), [draw(2)]), rtol=0, atol=0)


@every_rule
def test_a_rule_is_rebuilt_from_its_config_and_theta(name: str) -> None:
    rule = make(name, trained=True)
    config = rule.config if name == "scaled" else json.loads(json.dumps(rule.config))
    other = type(rule)(**config)
    other.load_state_dict(rule.state_dict())
    close(run(other, draw(1), [draw(2)] * 2), run(rule, draw(1), [draw(2)] * 2), rtol=0, atol=0)


@pytest.mark.compiled
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["adam", "mlp", "velo", "matrix_published"])
def test_a_compiled_rule_takes_the_same_steps(name: str) -> None:
    rule = make(name)
    params = {"w": torch.randn(3, 2, generator=seeded(0)), "b": torch.randn(2, generator=seeded(1))}
    grads = {key: p.sin() for key, p in params.items()}
    state = rule.init(params, 10)
    with torch.no_grad():
        compiled = torch.compile(lambda *args: rule(*args), fullgraph=True, dynamic=False)
        close(compiled(grads, state, params, torch.tensor(1.0)), rule(grads, state, params, torch.tensor(1.0)))

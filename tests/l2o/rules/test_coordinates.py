"""The fast form of the per-coordinate rules computes what the readable one does."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch.func import functional_call, vmap

import l2o
from l2o.kernels.build import without_kernels
from l2o.kernels.coordinate_mlp import available
from l2o.rules import Celo, MatrixRule, MLPRule, UpdateRule, VeLO
from l2o.rules.coordinates import deferring
from l2o.types import Params, seeded, tree_leaves, tree_stack

RULES: dict[str, Callable[[], UpdateRule]] = {
    "mlp": MLPRule,
    "mlp deep": partial(MLPRule, hidden_size=5, num_layers=3),
    "mlp wide": partial(MLPRule, hidden_size=32),
    "matrix": MatrixRule,
    "matrix one layer": partial(MatrixRule, num_layers=1, vectors="learned"),
    "celo2": partial(MatrixRule, residual=False, orthogonalize=True, vectors="learned", hidden_size=20),
    "celo": partial(Celo, lstm_hidden_size=8),
    "velo": partial(VeLO, lstm_hidden_size=8, num_bank=3),
}
# below, at and above a vector's width; both orders of the factored dimensions, with others before, between and after
SHAPES = [(), (1,), (33,), (5, 1), (64, 32), (32, 64), (10, 7), (2, 3, 4), (16, 8, 3, 3), (3, 64, 7, 7), (5, 20, 2, 30)]
LARGE = [(300, 500), (150_000,), (260, 130, 3, 3)]

every_rule = pytest.mark.parametrize("name", RULES)


@pytest.fixture(autouse=True)
def one_thread_again() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


def make(name: str) -> UpdateRule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rule = RULES[name]()
        for p in rule.parameters():
            p.data += 0.1 * torch.randn_like(p)
    return rule


def draw(seed: int, shapes: list[tuple[int, ...]], scale: float = 1.0) -> Params:
    generator = seeded(seed)
    return {f"p{i}": scale * torch.randn(shape, generator=generator) for i, shape in enumerate(shapes)}


def run(rule: UpdateRule, shapes: list[tuple[int, ...]], num_steps: int = 3) -> list[torch.Tensor]:
    """Updates of the last step and state, after steps with shrinking gradients, some of them zero."""
    params = draw(0, shapes)
    state = rule.init(params, 10)
    for i in range(num_steps):
        grads = draw(i + 1, shapes, 10.0 ** (1 - i))
        if i == 0:
            grads = {key: torch.where(g < 0, 0.0, g) for key, g in grads.items()}  # half have not moved yet
        with torch.no_grad():
            updates, state = rule(grads, state, params, torch.tensor(1.0 / (i + 1)))
    return tree_leaves([updates, state.slots])


def assert_close(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float = 2e-5) -> None:
    """To a fraction of each tensor's largest number."""
    for x, y in zip(found, expected, strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype
        size = y.abs().max() if y.numel() else 0.0
        torch.testing.assert_close(x, y, rtol=0.0, atol=float(tolerance * size + 1e-12))


def test_there_are_kernels_here() -> None:
    assert available(8, 2), "the other tests would compare the readable form with itself"
    assert not available(33, 2) and not available(8, 5)


@every_rule
def test_fast_steps_equal_readable_ones(name: str) -> None:
    rule = make(name)
    found = run(rule, SHAPES)
    with without_kernels():
        expected = run(rule, SHAPES)
    assert_close(found, expected)
    assert not all(torch.equal(x, y) for x, y in zip(found, expected, strict=True)), "one form was compared with itself"


@pytest.mark.parametrize("name", ["mlp", "matrix"])
def test_fast_steps_of_large_tensors_equal_readable_ones_on_any_number_of_threads(name: str) -> None:
    rule = make(name)
    one = run(rule, LARGE, 2)
    torch.set_num_threads(2)
    two = run(rule, LARGE, 2)
    assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))
    with without_kernels():
        assert_close(one, run(rule, LARGE, 2), 1e-4)


@every_rule
def test_lanes_with_their_own_theta_take_the_steps_that_each_takes_alone(name: str) -> None:
    shapes = [(), (7,), (6, 20), (4, 3, 3, 3)]
    rule = make(name)
    thetas = [{key: p.detach() + 0.01 * i for key, p in rule.named_parameters()} for i in range(3)]
    params = [draw(10 + i, shapes) for i in range(3)]
    grads = [draw(20 + i, shapes) for i in range(3)]
    states = [rule.init(p, 10) for p in params]

    def step(*args: object) -> object:
        theta, *rest = args
        return functional_call(rule, theta, (*rest, torch.tensor(1.0)))

    with torch.no_grad():
        alone = [step(*each) for each in zip(thetas, grads, states, params, strict=True)]
        stacked = [tree_stack(trees) for trees in (thetas, grads, states, params)]
        together = vmap(step)(*stacked)
        assert_close(tree_leaves(together), tree_leaves(tree_stack(alone)), 1e-5)
        one_theta = vmap(step, in_dims=(None, 0, 0, 0))(thetas[0], *stacked[1:])
        assert_close([x[:1] for x in tree_leaves(one_theta)], tree_leaves(tree_stack(alone[:1])), 1e-5)
        twice = vmap(vmap(step))(*(tree_stack([tree, tree]) for tree in stacked))
        assert_close([x[1] for x in tree_leaves(twice)], tree_leaves(together), 1e-6)


@every_rule
@pytest.mark.parametrize("transform", ["none", "vmap", "jvp"])
def test_derivatives_pass_through_a_rule_that_has_kernels(name: str, transform: str) -> None:
    rule = make(name)
    params, grads = draw(0, [(4, 3), (2,)]), draw(1, [(4, 3), (2,)])
    theta = {key: p.detach().clone().requires_grad_() for key, p in rule.named_parameters()}

    def size(theta: Params, grads: Params) -> torch.Tensor:
        updates, _ = functional_call(rule, theta, (grads, rule.init(params, 10), params, torch.tensor(1.0)))
        return sum(u.square().sum() for u in updates.values()) * 1e6

    if transform == "jvp":
        with torch.no_grad():
            _, slope = torch.func.jvp(lambda t: size(t, grads), (theta,), (theta,))
        assert slope.isfinite() and slope != 0
        return
    both = tree_stack([grads, {key: 2 * g for key, g in grads.items()}])
    value = size(theta, grads) if transform == "none" else vmap(size, in_dims=(None, 0))(theta, both).sum()
    found = torch.autograd.grad(value, list(theta.values()), allow_unused=True, materialize_grads=True)
    assert any(g.abs().max() > 0 for g in found) and all(g.isfinite().all() for g in found)


@every_rule
def test_a_step_whose_state_follows_later_is_the_same(name: str) -> None:
    rule = make(name)
    params, first, second = draw(0, SHAPES), draw(1, SHAPES), draw(2, SHAPES)
    with torch.no_grad():
        _, state = rule(first, rule.init(params, 10), params, torch.tensor(1.0))
        before = [x.clone() for x in tree_leaves(state.slots)]
        expected, expected_state = rule(second, state, params, torch.tensor(1.0))
        with deferring() as deferred:
            updates, new = rule(second, state, params, torch.tensor(1.0))
    assert all(torch.equal(x, y) for x, y in zip(before, tree_leaves(state.slots), strict=True)), "nothing has happened"
    assert deferred.names
    deferred.advance()
    assert_close(tree_leaves([updates, new.slots]), tree_leaves([expected, expected_state.slots]), 1e-5)


@pytest.mark.parametrize("bad", ["gradient", "parameter", "theta"])
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_the_drop_in_leaves_out_a_step_that_is_not_finite_and_changes_nothing(bad: str, number: str) -> None:
    rule = make("matrix")
    w = torch.nn.Parameter(torch.randn(6, 5, generator=seeded(0)))
    optimizer = l2o.LearnedOptimizer([w], rule)
    w.grad = torch.ones(6, 5)
    optimizer.step()
    state = [x.clone() for x in tree_leaves(dict(optimizer.state[w]))]
    with torch.no_grad():
        target = {"gradient": w.grad, "parameter": w, "theta": next(rule.parameters())}[bad]
        target.view(-1)[3] = float(number)
    before = w.detach().clone()
    with pytest.warns(RuntimeWarning, match="not finite"):
        optimizer.step()
    assert optimizer.skipped_steps == 1
    assert torch.equal(w.detach().nan_to_num(), before.nan_to_num())
    assert all(torch.equal(x, y) for x, y in zip(state, tree_leaves(dict(optimizer.state[w])), strict=True))


def test_finite_numbers_with_squares_that_are_not_still_make_a_step() -> None:
    w = torch.nn.Parameter(torch.full((4, 4), 1e30))
    optimizer = l2o.LearnedOptimizer([w], make("matrix"), nonfinite="raise")
    w.grad = torch.full((4, 4), -1.0)
    optimizer.step()
    assert optimizer.state[w]["step"] == 1 and w.isfinite().all()


class Twice(UpdateRule):
    """A rule of a user's own, around another that it asks twice a step."""

    def __init__(self, inner: UpdateRule, keeps_old: bool = False) -> None:
        super().__init__()
        self.inner, self.keeps_old = inner, keeps_old

    def init(self, params, total_steps=None):
        return self.inner.init(params, total_steps)

    def forward(self, grads, state, params, loss=None):
        first, between = self.inner(grads, state, params, loss)
        second, after = self.inner(grads, between, params, loss)
        return {key: first[key] + second[key] for key in params}, state if self.keeps_old else after


@pytest.mark.parametrize("keeps_old", [False, True])
def test_a_rule_around_another_is_run_as_it_is_written(keeps_old: bool) -> None:
    rule = Twice(make("matrix"), keeps_old)
    w = torch.nn.Parameter(torch.randn(6, 5, generator=seeded(0)))
    params = {"w": w.detach().clone()}
    optimizer, state = l2o.LearnedOptimizer([w], rule), rule.init(params)
    for i in range(3):
        w.grad = torch.randn(6, 5, generator=seeded(i))
        optimizer.step()
        with torch.no_grad():
            updates, state = rule({"w": w.grad}, state, params)
        params = {"w": params["w"] + updates["w"]}
    torch.testing.assert_close(w.detach(), params["w"])


def test_gradients_and_state_of_other_kinds_are_read_right() -> None:
    def run(grad: torch.Tensor, loaded: bool = False) -> torch.Tensor:
        w = torch.nn.Parameter(torch.ones(4, 3))
        optimizer = l2o.LearnedOptimizer([w], make("mlp"))
        for _ in range(2):
            w.grad = grad
            optimizer.step()
            if loaded:  # as a tool might have saved it
                state = optimizer.state_dict()
                state["state"][0] = {
                    key: x.bfloat16() if x.is_floating_point() else x for key, x in state["state"][0].items()
                }
                optimizer.load_state_dict(state)
        return w.detach()

    down = run(torch.full((4, 3), -1.0))
    torch.testing.assert_close(run(torch._neg_view(torch.ones(4, 3))), down)
    torch.testing.assert_close(run(torch.full((3, 4), -1.0).t()), down)
    torch.testing.assert_close(run(torch.full((4, 3), -1.0), loaded=True), down, rtol=1e-4, atol=1e-5)


def test_a_loaded_state_is_not_shared() -> None:
    w, v = (torch.nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    w.grad = torch.ones(4, 3)
    one, other = (l2o.LearnedOptimizer([p], make("mlp")) for p in (w, v))
    one.step()
    other.load_state_dict(one.state_dict())
    kept = other.state[v]["momenta"].clone()
    one.step()
    assert torch.equal(other.state[v]["momenta"], kept)


@pytest.mark.compiled
@pytest.mark.parametrize("name", ["mlp", "matrix"])
def test_a_compiled_rule_takes_transposed_parameters(name: str) -> None:
    rule = make(name)
    params = {"w": torch.randn(6, 5, generator=seeded(0)).t()}
    grads = {"w": torch.randn(6, 5, generator=seeded(1)).t()}
    with torch.no_grad():
        expected, _ = rule(grads, rule.init(params), params)
        found, _ = torch.compile(rule)(grads, rule.init(params), params)
    torch.testing.assert_close(found, expected)

"""The fast form of the LSTM rule equals the readable one."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.func import functional_call, grad, vmap

from l2o.kernels.build import without_kernels
from l2o.kernels.lstm import available
from l2o.rules import LSTMRule
from l2o.types import seeded, tree_leaves, tree_map, tree_stack

SHAPES = [(), (0,), (1,), (5, 1), (64, 32), (3, 3, 3)]
LANES = 3

pytestmark = pytest.mark.skipif(not available(20, 2, 10.0), reason="there is no compiler here")
every_form = pytest.mark.parametrize(
    "make",
    [
        partial(LSTMRule, hidden_size=size, num_layers=layers, inputs=inputs)
        for size, layers in ((20, 2), (7, 2), (4, 1), (20, 1), (32, 3))
        for inputs in ("log_gradient", "rnnprop")
    ],
    ids=lambda make: "-".join(map(str, make.keywords.values())),
)
every_lanes = pytest.mark.parametrize("lanes", [0, LANES], ids=["alone", "lanes"])


def draw(seed: int, scale: float = 1.0) -> dict:
    generator = seeded(seed)
    drawn = {f"p{i}": scale * torch.randn(shape, generator=generator) for i, shape in enumerate(SHAPES)}
    drawn["p4"][::7] = 0.0  # coordinates without gradient
    drawn["p4"][3] *= 1e-5  # and below e^-p
    return drawn


def theta_of(make: Callable[[], LSTMRule], seed: int) -> dict:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rule = make()
        return {name: p + 0.1 * torch.randn_like(p) for name, p in rule.named_parameters()}


def drawn_state(rule: LSTMRule, params: dict, seed: int) -> object:
    state, generator = rule.init(params), seeded(seed)
    slots = {
        name: slot | {"hidden": torch.randn(slot["hidden"].shape, generator=generator) / 2}
        for name, slot in state.slots.items()
    }
    return state._replace(slots=slots)


def problem(make: Callable[[], LSTMRule], lanes: int) -> tuple[Callable, tuple]:
    """A step as a function of (theta, grads, state), and these; with a leading axis of lanes where there are some."""
    rule = make()

    def one(lane: int) -> tuple:
        params = draw(lane)
        return theta_of(make, lane), draw(10 + lane), drawn_state(rule, params, 20 + lane)

    def take(theta: dict, grads: dict, state: object) -> tuple:
        return functional_call(rule, theta, (grads, state, grads))

    return (vmap(take), tree_stack([one(i) for i in range(lanes)])) if lanes else (take, one(0))


def weighed(outputs: object, seed: int = 5) -> torch.Tensor:
    """A number that depends on every output."""
    generator = seeded(seed)
    leaves = [x for x in tree_leaves(outputs) if x.is_floating_point()]
    return sum((x * torch.randn(x.shape, generator=generator)).sum() for x in leaves)


def both(compute: Callable[[], object]) -> tuple[object, object]:
    with without_kernels():
        expected = compute()
    return compute(), expected


def inputs_of(arguments: tuple) -> list:
    leaves = [x for x in tree_leaves(arguments) if x.is_floating_point()]
    return [x.requires_grad_() for x in leaves]


def close(left: object, right: object, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Relative to the largest number of each tensor."""
    for x, y in zip(tree_leaves(left), tree_leaves(right), strict=True):
        largest = float(y.detach().abs().max()) if y.numel() and y.is_floating_point() else 0.0
        torch.testing.assert_close(x, y, rtol=rtol, atol=atol * max(1.0, largest))


@every_form
@every_lanes
def test_steps_and_states_are_those_of_the_readable_form(make: Callable, lanes: int) -> None:
    step, arguments = problem(make, lanes)
    close(*both(lambda: step(*arguments)))


@every_form
@every_lanes
def test_gradients_are_those_of_the_readable_form(make: Callable, lanes: int) -> None:
    step, arguments = problem(make, lanes)
    inputs = inputs_of(arguments)
    close(*both(lambda: torch.autograd.grad(weighed(step(*arguments)), inputs, materialize_grads=True)))


@every_form
@every_lanes
def test_second_derivatives_are_those_of_the_readable_form(make: Callable, lanes: int) -> None:
    step, arguments = problem(make, lanes)
    inputs = inputs_of(arguments)

    def second() -> tuple:
        first = torch.autograd.grad(weighed(step(*arguments)), inputs, create_graph=True, materialize_grads=True)
        # each of size 1: those of gradients below e^-p are larger by orders of magnitude
        scaled = [x / x.detach().abs().max() for x in first if x.numel()]
        return torch.autograd.grad(weighed(scaled), inputs, materialize_grads=True)

    close(*both(second), rtol=1e-3)


@every_lanes
def test_functional_gradients_are_those_of_the_readable_form(lanes: int) -> None:
    step, arguments = problem(LSTMRule, lanes)
    theta, *rest = arguments
    close(*both(lambda: grad(lambda theta: weighed(step(theta, *rest)))(theta)))
    if lanes:
        alone, _ = problem(LSTMRule, 0)
        own = vmap(grad(lambda theta, *rest: weighed(alone(theta, *rest))), randomness="same")
        close(*both(lambda: own(theta, *rest)))


def test_lanes_may_share_theta() -> None:
    step, (theta, _, state) = problem(LSTMRule, 0)
    theta = tree_map(lambda x: x.detach().requires_grad_(), theta)
    many = tree_stack([draw(i) for i in range(LANES)])

    def compute() -> tuple:
        out = vmap(step, in_dims=(None, 0, None))(theta, many, state)
        return out, torch.autograd.grad(weighed(out), list(theta.values()))

    close(*both(compute))


def test_lanes_may_have_lanes() -> None:
    step, arguments = problem(LSTMRule, LANES)
    arguments = tree_stack([arguments, arguments])
    inputs = inputs_of(arguments)

    def compute() -> tuple:
        out = vmap(step)(*arguments)
        return out, torch.autograd.grad(weighed(out), inputs, materialize_grads=True)

    close(*both(compute))


def test_only_what_is_reached_counts() -> None:
    step, arguments = problem(LSTMRule, 0)
    inputs = inputs_of(arguments)
    for part in (lambda out: out[0]["p4"], lambda out: out[1].slots["p5"]["hidden"]):
        close(
            *both(
                lambda part=part: torch.autograd.grad(weighed(part(step(*arguments))), inputs, materialize_grads=True)
            )
        )


def test_sums_do_not_depend_on_the_threads() -> None:
    step, arguments = problem(LSTMRule, LANES)
    inputs = inputs_of(arguments)
    before, found = torch.get_num_threads(), []
    try:
        for num in (1, 2, 3):
            torch.set_num_threads(num)
            found.append(torch.autograd.grad(weighed(step(*arguments)), inputs, materialize_grads=True))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_a_bad_gradient_spoils_its_own_coordinate_only(bad: float) -> None:
    rule, params = LSTMRule(), {"w": torch.ones(40)}
    state, grads = rule.init(params), {"w": torch.randn(40, generator=seeded(0))}
    clean, _ = rule(grads, state, params)
    grads["w"][17] = bad
    updates, _ = rule(grads, state, params)
    where = torch.arange(40) != 17
    assert torch.equal(updates["w"][where], clean["w"][where])
    with without_kernels():
        readable, _ = rule(grads, state, params)
    assert updates["w"][17].isfinite() == readable["w"][17].isfinite()


@pytest.mark.compiled
@pytest.mark.filterwarnings("default")
@every_lanes
def test_a_compiled_step_and_its_gradients_are_those_of_the_readable_form(lanes: int) -> None:
    step, arguments = problem(LSTMRule, lanes)
    inputs = inputs_of(arguments)
    compiled = torch.compile(lambda *args: step(*args), fullgraph=True, dynamic=False)

    def compute(step: Callable) -> tuple:
        out = step(*arguments)
        return out, torch.autograd.grad(weighed(out), inputs, materialize_grads=True)

    with without_kernels():
        expected = compute(step)
    close(compute(compiled), expected)

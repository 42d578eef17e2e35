import math
from collections.abc import Iterator

import pytest
import torch

from l2o.learners import MAML, MLP, MetaLSTMRule, adapt
from l2o.optim import LearnedOptimizer
from l2o.rules import SGD, OptState
from l2o.tasks.episodes import Examples
from l2o.types import Params, seeded

SUPPORT = Examples(torch.randn(6, 3, generator=seeded(0)).double(), torch.randn(6, 1, generator=seeded(1)).double())
LOSS = torch.tensor(1.7, dtype=torch.float64)


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    """Networks are the same in every run, whatever runs before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def make() -> MetaLSTMRule:
    """A rule whose theta is moved off its start."""
    rule = MetaLSTMRule(hidden_size=3).double()
    for p in rule.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return rule


def drawn(seed: int) -> Params:
    shapes = {"w": (2, 3), "b": (3,), "scalar": ()}
    return {name: torch.randn(s, generator=seeded(seed + i)).double() for i, (name, s) in enumerate(shapes.items())}


def run(rule: MetaLSTMRule, params: Params, steps: int = 3) -> tuple[Params, OptState]:
    state = rule.init(params)
    for i in range(steps):
        grads = {name: torch.sin(p + i) for name, p in params.items()}  # each coordinate's own, wherever it stands
        updates, state = rule(grads, state, params, LOSS)
        params = {name: p + updates[name] for name, p in params.items()}
    return params, state


def test_the_cell_is_the_weight() -> None:
    """c <- f c - i g, with the gates that the state tells."""
    rule, params, state = make(), drawn(0), None
    for step in range(3):
        state = rule.init(params) if state is None else state
        grads = drawn(10 + step)
        updates, state = rule(grads, state, params, LOSS)
        for name, p in params.items():
            i, f = state.slots[name]["gates"]
            torch.testing.assert_close(p + updates[name], f * p - i * grads[name])
            assert ((i > 0) & (i < 1) & (f > 0) & (f < 1)).all()
        params = {name: p + updates[name] for name, p in params.items()}


def test_it_is_the_equations_on_torchs_own_lstm() -> None:
    rule, first = make(), torch.nn.LSTMCell(4, 3).double()
    weight, bias = rule.weight.detach(), rule.bias.detach().clone()
    bias[3:6] += 1.0  # the forget bias of ours
    first.load_state_dict(
        {"weight_ih": weight[:, :4], "weight_hh": weight[:, 4:], "bias_ih": bias, "bias_hh": torch.zeros_like(bias)}
    )

    def told(x: torch.Tensor) -> torch.Tensor:
        """Large and small numbers, as columns (equation after 3, p = 10)."""
        large = x.abs() >= math.exp(-10)
        log = torch.where(large, x.abs().log() / 10, -1.0)
        return torch.stack([log, torch.where(large, x.sign(), math.exp(10) * x)], dim=-1)

    w = torch.tensor([1.5, -0.7, 0.2, 0.0], dtype=torch.float64)
    params, state = {"w": w}, rule.init({"w": w})
    i, f, hidden = torch.zeros(4, 1).double(), torch.ones(4, 1).double(), None
    for step in range(4):
        grad = torch.tensor([0.3, -2e-5, 1e-9, -40.0], dtype=torch.float64) * (step + 1)
        updates, state = rule({"w": grad}, state, params, LOSS / (step + 1))
        params = {"w": params["w"] + updates["w"]}
        hidden = first(torch.cat([told(grad), told(LOSS / (step + 1)).expand(4, 2)], dim=1), hidden)
        cell = torch.cat([hidden[0], w.unsqueeze(1)], dim=1)
        i = torch.sigmoid(torch.cat([cell, i], dim=1) @ rule.gates[0] + rule.gate_bias[0]).unsqueeze(1)
        f = torch.sigmoid(torch.cat([cell, f], dim=1) @ rule.gates[1] + rule.gate_bias[1]).unsqueeze(1)
        w = f.squeeze(1) * w - i.squeeze(1) * grad
        torch.testing.assert_close(params["w"], w)


def test_with_gates_that_see_nothing_it_is_sgd() -> None:
    """The forget gate at 1 and the input gate at a constant: gradient descent is a special case (section 3.2)."""
    rule, learner = make(), MAML(MLP([3, 4, 1])).double()
    with torch.no_grad():
        rule.gates.zero_()
        rule.gate_bias.copy_(torch.tensor([-2.0, 50.0]))
    rate = float(torch.sigmoid(torch.tensor(-2.0, dtype=torch.float64)))
    fast, plain = adapt(learner, rule, SUPPORT, 3), adapt(learner, SGD(rate).double(), SUPPORT, 3)
    for name, value in plain.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-6, atol=1e-8)


def test_a_fresh_one_hardly_moves_and_hardly_forgets() -> None:
    for i in range(5):
        rule = MetaLSTMRule().double()
        _, state = run(rule, drawn(i))
        for slot in state.slots.values():
            moving, keeping = slot["gates"]
            assert ((moving > 0.004) & (moving < 0.03)).all() and (keeping > 0.97).all()
    params, grads = {"w": torch.full((4,), 3.0)}, {"w": torch.full((4,), 1e30)}
    updates, _ = rule.float()(grads, rule.init(params), params, torch.tensor(1e30))
    assert updates["w"].isfinite().all()


def test_gates_read_their_own_last_value() -> None:
    rule, params = make(), {"w": torch.zeros(1, dtype=torch.float64)}
    grads = {"w": torch.ones(1, dtype=torch.float64)}
    with torch.no_grad():
        rule.gates.zero_()
        rule.gates[:, -1] = 1.0  # columns: h, the coordinate, the gate's last value
        rule.gate_bias.zero_()
    state, i, f = rule.init(params), torch.tensor(0.0), torch.tensor(1.0)
    for _ in range(3):
        _, state = rule(grads, state, params, LOSS)
        i, f = torch.sigmoid(i), torch.sigmoid(f)
        torch.testing.assert_close(state.slots["w"]["gates"].flatten(), torch.stack([i, f]).double())


def test_coordinates_share_the_weights_and_know_nothing_of_each_other() -> None:
    """A tensor cut to pieces, its rows in another order, goes the same way piece by piece."""
    rule, w = make(), drawn(0)["w"]
    whole, _ = run(rule, {"w": w})
    pieces, _ = run(rule, {"last": w[1, 1], "first": w[0], "rest": w[1, [2, 0]].reshape(2, 1, 1)})
    torch.testing.assert_close(pieces["first"], whole["w"][0])
    torch.testing.assert_close(pieces["last"], whole["w"][1, 1])
    torch.testing.assert_close(pieces["rest"].flatten(), whole["w"][1, [2, 0]])


def test_the_loss_is_read_and_its_absence_is_a_loss_of_zero() -> None:
    rule, params, grads = make(), drawn(0), drawn(1)
    state = rule.init(params)
    without, _ = rule(grads, state, params)
    zero, _ = rule(grads, state, params, 0.0 * LOSS)
    some, _ = rule(grads, state, params, LOSS)
    assert all(torch.equal(without[name], zero[name]) for name in params)
    assert all((without[name] != some[name]).all() for name in params)


def test_in_first_order_the_start_is_learned_through_the_forget_gates() -> None:
    """With gradients as constants and gates that see nothing, d end / d start is the product of forget gates."""
    rule, learner = make(), MAML(torch.nn.Linear(3, 1)).double()
    with torch.no_grad():
        rule.gates.zero_()
    fast = adapt(learner, rule, SUPPORT, 3, order="first")
    (found,) = torch.autograd.grad(fast["bias"].sum(), learner.network.bias)
    torch.testing.assert_close(found, torch.sigmoid(rule.gate_bias[1].detach()).reshape(1) ** 3)


def test_as_an_optimizer_it_takes_the_same_steps() -> None:
    rule, network = make(), MLP([3, 4, 1]).double()
    expected = adapt(MAML(network), rule, SUPPORT, 3)
    optimizer = LearnedOptimizer(network.parameters(), rule)
    expected = {name: value.detach().clone() for name, value in expected.items()}
    for _ in range(3):
        optimizer.zero_grad()
        loss = (network(SUPPORT.x) - SUPPORT.y).square().mean()
        loss.backward()
        optimizer.step(loss=loss)
    for name, value in expected.items():
        torch.testing.assert_close(network.get_parameter(name).detach(), value)


def test_sizes_are_checked() -> None:
    for wrong in ({"hidden_size": 0}, {"p": 0.0}):
        with pytest.raises(ValueError, match="must be positive"):
            MetaLSTMRule(**wrong)

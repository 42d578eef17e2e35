import math

import pytest
import torch

from l2o import LearnedOptimizer
from l2o.rules import LearnedMuon
from l2o.rules.alike import stacked
from l2o.rules.newton_schulz import newton_schulz
from l2o.rules.steering import BARE, NUM_COSINES, NUM_RECALLED, recall, schedule
from l2o.types import Params, seeded


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed))


def steps(rule: LearnedMuon, params: Params, grads: list[Params], total_steps: int | None = None) -> list[Params]:
    """The updates of several steps; the parameters stay where they are."""
    state, updates = rule.init(params, total_steps), []
    with torch.no_grad():
        for grad in grads:
            update, state = rule(grad, state, params)
            updates.append(update)
    return updates


def gradients(params: Params, num: int) -> list[Params]:
    return [{k: draw(*p.shape, seed=10 * i + j) for j, (k, p) in enumerate(params.items())} for i in range(num)]


def size_of(p: torch.Tensor) -> float:
    """What a fresh rule makes of a tensor's size at the start and a matrix's columns, in a run of unknown length."""
    rms, length = float(p.square().mean().sqrt()), (200 / 10_000) ** 0.25
    if p.ndim < 2:
        return length * (rms / 0.1) ** 0.25
    size = rms * math.sqrt(3 * p.shape[1])
    return length * math.sqrt(64 / max(16, p.shape[1])) * size ** (1.0 if size < 1 else 0.5)


def rest(seconds: list[torch.Tensor]) -> float:
    """How much of a step is left, from the second moments so far."""
    means = [float(v.mean()) for v in seconds]
    left = math.sqrt(means[-1] / max(means))
    return left / (left + 0.003)


def test_a_fresh_rule_moves_matrices_as_muon_does() -> None:
    params = {"w": draw(6, 4)}
    grads = gradients(params, 3)
    update = steps(LearnedMuon(), params, grads)[-1]["w"]
    momentum, second, seconds = *torch.zeros(2, 6, 4), []
    for i, grad in enumerate(grads):
        momentum = torch.lerp(momentum, grad["w"], 0.1)
        second = torch.lerp(second, grad["w"].square(), 0.01)
        seconds.append(second / (1 - 0.99 ** (i + 1)))
    signal = (math.exp(1.5) * momentum.square().mean().sqrt() / second.mean().sqrt()) ** 0.4
    nearest = newton_schulz(torch.lerp(momentum, grads[-1]["w"], 0.1))
    nearest = nearest / nearest.square().mean().sqrt()
    warmup = 3 / 50
    expected = -0.02 * 0.2 * warmup * size_of(params["w"]) * signal * rest(seconds) * nearest
    expected -= warmup * 2 * 0.3 / 10_000 * params["w"]  # what it forgets, in a run of unknown length
    torch.testing.assert_close(update, expected, rtol=1e-3, atol=1e-7)


def test_a_fresh_rule_moves_vectors_as_adam_does() -> None:
    params = {"b": 0.3 * draw(5)}
    first, second = gradients(params, 2)
    one, two = steps(LearnedMuon(), params, [first, second])
    unit = 0.02 * size_of(params["b"]) / 50
    at_first = rest([first["b"].square()])
    torch.testing.assert_close(one["b"], -unit * at_first * first["b"].sign(), rtol=1e-4, atol=1e-8)
    fast = torch.lerp(0.1 * first["b"], second["b"], 0.1) / (1 - 0.9**2)
    v = (0.01 * 0.99 * first["b"].square() + 0.01 * second["b"].square()) / (1 - 0.99**2)
    expected = (0.9 * fast + 0.1 * second["b"]) / v.sqrt()
    left = rest([first["b"].square(), v])
    torch.testing.assert_close(two["b"], -2 * unit * left * expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_the_scale_of_the_loss_plays_no_part(scale: float) -> None:
    params = {"w": draw(4, 3), "b": draw(3)}
    grads = gradients(params, 3)
    ones = steps(LearnedMuon(max_gradient=1e9), params, grads)[-1]
    scaled = [{k: scale * g for k, g in grad.items()} for grad in grads]
    others = steps(LearnedMuon(max_gradient=1e9), params, scaled)[-1]
    torch.testing.assert_close(others, ones, rtol=1e-3, atol=1e-7)


def test_the_schedule_warms_up_and_comes_down() -> None:
    total = torch.tensor(1000.0)
    at = [float(schedule(torch.tensor(t / 1000), total, torch.tensor(t))) for t in (0, 24, 49, 500, 999, 5000)]
    assert at[:2] == pytest.approx([1 / 50, 0.5], rel=0.01)
    assert at[2:] == pytest.approx([0.994, 0.505, 0.01, 0.01], abs=1e-3)
    unknown = [float(schedule(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(t))) for t in (0, 49, 10**6)]
    assert unknown == pytest.approx([1 / 50, 1.0, 1.0])


def test_cosines_are_reckoned_from_mean_squares_alone() -> None:
    rates, momenta = torch.tensor([0.1, 0.01]), torch.zeros(2, 40)
    recalled, expected = torch.zeros(1, NUM_RECALLED), torch.zeros(NUM_COSINES)
    for i in range(6):
        g = draw(40, seed=i) + 1.0
        if i:
            now = torch.nn.functional.cosine_similarity(momenta, g.expand(2, -1), dim=1).repeat(2)
            expected = torch.lerp(expected, now, torch.tensor([0.1, 0.1, 0.01, 0.01]))
        momenta = torch.lerp(momenta, g.expand(2, -1), rates.unsqueeze(1))
        measured = torch.zeros(1, 35)
        measured[0, 0], measured[0, 2:4] = g.square().mean(), momenta.square().mean(dim=1)
        measured[0, 1] = 7.0 + i
        recalled = recall(
            measured, recalled, torch.tensor([5.0 - i]), rates, torch.tensor([0.5 + i]), torch.tensor([i == 0])
        )
    torch.testing.assert_close(recalled[0, :NUM_COSINES], expected, rtol=1e-3, atol=1e-4)
    assert expected.min() > 0.01
    assert recalled[0, BARE] == pytest.approx(0.5 + sum(1 - 0.9**i for i in range(1, 6)), rel=1e-4)
    assert recalled[0, -3:].tolist() == [5.0, 0.0, 7.0]  # the largest second moment, the last, and the size at first


@pytest.mark.parametrize("unit", [0.05, 0.3])
def test_a_network_in_smaller_units_takes_steps_as_much_smaller(unit: float) -> None:
    usual = {"a": draw(8, 20) / math.sqrt(60), "b": torch.zeros(8), "c": draw(3, 8) / math.sqrt(24)}
    grads = gradients(usual, 3)
    ones = steps(LearnedMuon(), usual, grads)[-1]
    small = {k: unit * p for k, p in usual.items()}
    others = steps(LearnedMuon(max_gradient=1e9), small, [{k: g / unit for k, g in one.items()} for one in grads])[-1]
    for k, u in ones.items():
        torch.testing.assert_close(others[k], unit * u, rtol=2e-2, atol=1e-9)


def test_a_small_last_layer_takes_steps_almost_as_long() -> None:
    params = {"a": draw(8, 20) / math.sqrt(60), "b": draw(8, 8) / math.sqrt(24), "c": 0.01 * draw(3, 8) / math.sqrt(24)}
    grads = gradients(params, 1)
    ones = steps(LearnedMuon(), params, grads)[0]["c"].norm()
    others = steps(LearnedMuon(), params | {"c": 100 * params["c"]}, grads)[0]["c"].norm()
    assert 0.2 * others < ones < others


def test_steps_grow_with_a_network_that_began_small() -> None:
    params = {"a": 0.01 * draw(8, 20), "b": 0.01 * draw(8, 8)}
    grads, rule = gradients(params, 1)[0], LearnedMuon()
    with torch.no_grad():
        _, state = rule(grads, rule.init(params), params)
        same, _ = rule(grads, state, params)
        grown, _ = rule(grads, state, {k: 8 * p for k, p in params.items()})
    for k, u in same.items():
        assert float(grown[k].norm() / u.norm()) == pytest.approx(
            8 * 8**0.25, rel=0.02
        )  # the unit, and this tensor's growth


def rows_at_a_time(shape: tuple[int, int], num: int, rows: int) -> list[Params]:
    """Gradients of a table of which each step sees a few rows."""
    grads = []
    for i in range(num):
        seen = torch.zeros(shape[0], 1)
        seen[torch.randperm(shape[0], generator=seeded(i))[:rows]] = 1.0
        grads.append({"w": seen * draw(*shape, seed=i)})
    return grads


def test_a_table_of_which_a_step_sees_few_rows_is_moved_row_by_row() -> None:
    params = {"w": 0.1 * draw(40, 4)}
    grads = rows_at_a_time((40, 4), 12, 6)
    updates = steps(LearnedMuon(), params, grads)
    first = updates[0]["w"]
    moved = grads[0]["w"] != 0
    assert (first[moved].abs() / first[moved].abs().max()).min() > 0.999  # as Adam's first step
    assert not first[~moved].any()
    torch.testing.assert_close(first[moved].sign(), -grads[0]["w"][moved].sign())
    never = torch.stack([g["w"] for g in grads]).eq(0).all(dim=0)
    assert never.any()
    assert not updates[-1]["w"][never].any()


@pytest.mark.parametrize(("shape", "rows"), [((40, 4), 30), ((40, 60), 6)])
def test_other_matrices_are_moved_as_a_whole(shape: tuple[int, int], rows: int) -> None:
    params = {"w": 0.1 * draw(*shape)}
    step = steps(LearnedMuon(), params, rows_at_a_time(shape, 1, rows))[0]["w"]
    values = torch.linalg.svdvals(step)
    kept = values[: min(rows, *shape)]
    assert kept.min() > 0.5 * kept.max()  # nearly orthogonal


def test_a_matrix_that_begins_at_zero_takes_steps() -> None:
    params = {"a": draw(8, 20) / math.sqrt(60), "b": torch.zeros(3, 8)}
    first = steps(LearnedMuon(), params, gradients(params, 1))[0]["b"]
    other = steps(LearnedMuon(), params | {"b": draw(3, 8) / math.sqrt(24)}, gradients(params, 1))[0]["b"]
    assert 0.4 * other.norm() < first.norm() < other.norm()


def test_what_is_written_for_a_tensor_scales_its_step_and_turns_it() -> None:
    params = {"w": draw(6, 4), "b": draw(4)}
    grads = gradients(params, 3)
    rule = LearnedMuon()
    before = steps(rule, params, grads)[-1]
    with torch.no_grad():
        rule.steering.write.bias[0] = math.log(3.0)
    after = steps(rule, params, grads)[-1]
    forgotten = {"w": 3 / 50 * 2 * 0.3 / 10_000 * params["w"], "b": 0.0}
    for k, u in before.items():
        torch.testing.assert_close(after[k] + forgotten[k], 3 * (u + forgotten[k]), rtol=1e-3, atol=1e-7)
    with torch.no_grad():
        rule.steering.write.bias[2] = 50.0  # the gradient alone counts
    turned = steps(rule, params, grads)[-1]["w"]
    nearest = newton_schulz(grads[-1]["w"])
    cosine = torch.nn.functional.cosine_similarity(-turned.flatten(), nearest.flatten(), dim=0)
    assert cosine > 0.99


def test_a_matrix_that_next_to_nothing_moves_forgets_a_part_of_itself_in_a_run() -> None:
    params = {"w": draw(6, 4), "b": draw(4)}
    rule, p, num = LearnedMuon(step_scale=1e-12), {k: x.clone() for k, x in params.items()}, 200
    state = rule.init(params, num)
    with torch.no_grad():
        for grads in gradients(params, num):
            updates, state = rule(grads, state, p)
            p = {k: x + updates[k] for k, x in p.items()}
    torch.testing.assert_close(p["b"], params["b"], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(p["w"], math.exp(-0.3) * params["w"], rtol=0.03, atol=0.0)


def test_steps_of_longer_runs_are_shorter() -> None:
    params = {"w": draw(6, 4), "b": draw(4)}
    grads = gradients(params, 1)
    short, long = (steps(LearnedMuon(), params, grads, total)[0] for total in (200, 200 * 16))
    warmup = 16.0  # the first step of a longer rise is shorter as well
    torch.testing.assert_close(long["b"] * warmup, short["b"] / 2, rtol=1e-3, atol=1e-9)


def test_steps_end_where_gradients_have_become_negligible() -> None:
    params = {"w": draw(6, 4), "b": draw(4)}
    grads = gradients(params, 1)[0]
    rule = LearnedMuon()
    state = rule.init(params)
    with torch.no_grad():
        for i in range(1500):
            updates, state = rule({k: g * (1.0 if i < 100 else 1e-5) for k, g in grads.items()}, state, params)
            if i in (99, 1499):
                forgotten = 2 * 0.3 / 10_000 * params["w"]
                lengths = [float((updates["w"] + forgotten).norm()), float(updates["b"].norm())]
                before, after = (lengths, None) if i == 99 else (before, lengths)
    assert all(b < 0.05 * a for a, b in zip(before, after, strict=True))


def test_a_gradient_of_one_direction_moves_no_singular_value_further_than_a_full_one() -> None:
    params = {"w": draw(64, 64)}
    full = steps(LearnedMuon(), params, [{"w": draw(64, 64)}])[0]["w"]
    single = steps(LearnedMuon(), params, [{"w": draw(64, 1) @ draw(1, 64, seed=1)}])[0]["w"]
    norms = [float(torch.linalg.matrix_norm(u, 2)) for u in (full, single)]
    assert norms[1] < 2.0 * norms[0]


def test_parameters_of_two_precisions_keep_the_precision_of_their_state() -> None:
    params = {"w": draw(6, 4).double(), "b": draw(4)}
    rule = LearnedMuon()
    before = rule.init(params)
    with torch.no_grad():
        updates, after = rule({k: torch.ones_like(p) for k, p in params.items()}, before, params)
    assert {k: u.dtype for k, u in updates.items()} == {k: p.dtype for k, p in params.items()}
    for name, slot in before.slots.items():
        assert {k: x.dtype for k, x in after.slots[name].items()} == {k: x.dtype for k, x in slot.items()}


def trained() -> LearnedMuon:
    rule = LearnedMuon()
    with torch.no_grad():
        for i, p in enumerate(rule.parameters()):
            p += 0.1 * draw(*p.shape, seed=i)
    return rule


def test_kernels_and_the_readable_form_take_the_same_steps() -> None:
    rule, params = trained(), {"w": draw(6, 4), "k": draw(4, 3, 3, 3), "b": draw(4)}
    state = slow_state = rule.init(params, 100)
    for i, grads in enumerate(gradients(params, 4)):
        with torch.no_grad():
            fast, state = rule(grads, state, params, torch.tensor(2.0 - i))
        slow, slow_state = rule(grads, slow_state, params, torch.tensor(2.0 - i))
        torch.testing.assert_close(fast, {k: u.detach() for k, u in slow.items()}, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("grad_enabled", [False, True])
def test_tensors_of_one_shape_move_as_each_alone(grad_enabled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"w1": (6, 4), "k1": (4, 3, 3, 3), "b1": (4,), "s1": (), "w2": (6, 4), "k2": (4, 3, 3, 3), "b2": (4,)}
    params = {name: draw(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    params["half"], params["double"] = params["w1"].bfloat16(), params["w1"].double()
    rule, sizes = trained(), list[int]()
    monkeypatch.setattr("l2o.rules.learned_muon.stacked", lambda of: sizes.append(len(of)) or stacked(of))
    found = []
    for most in (10**6, 0):
        monkeypatch.setattr("l2o.rules.alike.MOST_ON_CPU", most)
        state = rule.init(params, 100)
        for i, grads in enumerate(gradients(params, 3)):
            grads = {name: grad.to(params[name].dtype) for name, grad in grads.items()}
            with torch.set_grad_enabled(grad_enabled):
                updates, state = rule(grads, state, params, torch.tensor(2.0 - i))
        found.append({name: update.detach() for name, update in updates.items()})
        assert max(sizes) == (2 if most else 1)
        sizes.clear()
    assert list(found[0]) == list(params)
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-7)


def test_the_drop_in_takes_the_steps_of_the_rule() -> None:
    rule = trained()
    start = {"w": draw(6, 4), "b": draw(4)}
    expected = {k: p.clone() for k, p in start.items()}
    leaves = [p.clone().requires_grad_() for p in start.values()]
    optimizer = LearnedOptimizer(leaves, rule=rule, total_steps=50)
    state = rule.init(expected, 50)
    for grads in gradients(start, 4):
        with torch.no_grad():
            updates, state = rule(grads, state, expected, torch.tensor(1.0))
            expected = {k: p + updates[k] for k, p in expected.items()}
        for leaf, grad in zip(leaves, grads.values(), strict=True):
            leaf.grad = grad.clone()
        optimizer.step(loss=torch.tensor(1.0))
    for leaf, p in zip(leaves, expected.values(), strict=True):
        torch.testing.assert_close(leaf.detach(), p, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"hidden_size": 0}, {"steering_size": 0}, {"step_scale": 0.0}])
def test_sizes_must_make_sense(options: dict) -> None:
    with pytest.raises(ValueError, match="got"):
        LearnedMuon(**options)

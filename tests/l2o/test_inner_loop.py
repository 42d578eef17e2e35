"""The inner loop against finite differences, hand-made unrolls, and itself in every way of running it."""

import pytest
import torch

from l2o.inner_loop import InnerLoop, Lanes
from l2o.rules import LSTMRule
from l2o.types import seeded, tree_leaves, tree_map
from tests.toys import (
    BOWL,
    Bowl,
    HalvedRegressions,
    LearnedMomentum,
    Regression,
    Regressions,
    exact_gradient,
    flat,
    theta_of,
)

STEPS = 5
FAMILIES = [pytest.param(Regressions(), id="regression"), pytest.param(HalvedRegressions(), id="nested")]


def setup(family, num=3, **options):
    """Lanes with their tasks, initial state and batches."""
    lanes = Lanes([family.sample(seeded(i)) for i in range(num)], LearnedMomentum(), **options)
    return lanes, lanes.reset([seeded(10 + i) for i in range(num)]), lanes.sample_batches(seeded(99), STEPS)


def meta_gradient(theta, losses, state):
    """Of an objective that sees all losses and the last state, each lane with a weight of its own."""
    weight = torch.arange(1.0, 1.0 + losses.shape[-1]).double()
    ends = sum((p.movedim(0, -1) * weight).sum() for p in state.params.values())
    return torch.autograd.grad((losses.mean(dim=0) * weight).sum() + ends, list(theta.values()))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("order", ["full", "first"])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("shared", [True, False])
def test_lanes_equal_a_loop_over_single_tasks(family, order, recompute, shared):
    lanes, state, batches = setup(family, order=order, recompute=recompute)
    theta = {n: p.detach() + torch.tensor([0.0, 0.1, -0.2]) for n, p in lanes.rule.named_parameters()}
    theta = {n: (v[0] if shared else v).clone().requires_grad_() for n, v in theta.items()}
    end, losses = lanes.unroll(theta, state, batches)

    states, curves = [], []
    for i, task in enumerate(lanes.tasks):
        loop = InnerLoop(task, lanes.rule, order)
        mine = theta if shared else {name: value[i] for name, value in theta.items()}
        one, curve = loop.unroll(mine, loop.reset(seeded(10 + i)), [tree_map(lambda x, i=i: x[i], b) for b in batches])
        states.append(one)
        curves.append(curve)
    looped = tree_map(lambda *xs: torch.stack(xs), states[0], *states[1:])

    torch.testing.assert_close(losses, torch.stack(curves, dim=1))
    for a, b in zip(tree_leaves(end), tree_leaves(looped), strict=True):
        torch.testing.assert_close(a, b)
    ours = meta_gradient(theta, losses, end)
    torch.testing.assert_close(ours, meta_gradient(theta, torch.stack(curves, dim=1), looped))


def test_full_meta_gradients_equal_finite_differences():
    rule = LearnedMomentum()
    loop, theta = InnerLoop(BOWL, rule), theta_of(rule)
    gradient = flat(exact_gradient(rule, BOWL, STEPS))
    for direction in torch.eye(2, dtype=torch.float64):

        def shifted(by, direction=direction):
            moved = {n: t.detach() + by * d for (n, t), d in zip(theta.items(), direction, strict=True)}
            return loop.unroll(moved, loop.reset(seeded(0)), [None] * STEPS)[1].mean()

        difference = (shifted(1e-5) - shifted(-1e-5)) / 2e-5
        torch.testing.assert_close(gradient @ direction, difference, rtol=1e-7, atol=1e-10)


def test_first_order_meta_gradients_take_inner_gradients_as_constants():
    rule = LearnedMomentum(lr=0.5)
    theta, lr, decay = theta_of(rule), *(p.detach().clone().requires_grad_() for p in rule.parameters())
    loop = InnerLoop(BOWL, rule, order="first")
    _, losses = loop.unroll(theta, loop.reset(seeded(0)), [None] * STEPS)

    w, m, by_hand = BOWL.start, torch.zeros(3).double(), []
    for _ in range(STEPS):
        by_hand.append(BOWL.loss({"w": w}, None))
        constant = (BOWL.curvature * w / (1 + (BOWL.curvature * w.square()).sum() / 2)).detach()
        m = torch.sigmoid(decay) * m + constant
        w = w - torch.exp(lr) * m
    expected = torch.autograd.grad(torch.stack(by_hand).mean(), [lr, decay])
    found = torch.autograd.grad(losses.mean(), list(theta.values()))
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(torch.stack(found), flat(exact_gradient(rule, BOWL, STEPS)), rtol=0.01)


def test_recomputing_stores_the_states_only():
    family = Regressions(dim=2)
    tasks, rule = [family.sample(seeded(i)) for i in range(2)], LSTMRule(hidden_size=3).double()

    def stored(recompute):
        lanes = Lanes(tasks, rule, recompute=recompute)
        state, batches = lanes.reset([seeded(0), seeded(1)]), lanes.sample_batches(seeded(2), STEPS)
        kept = {}

        def keep(x):
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        theta = theta_of(rule)
        _, losses = lanes.unroll(theta, state, batches)
        _walk(losses.grad_fn, keep)
        known = sum(x.numel() * x.element_size() for x in tree_leaves((theta, state, batches, lanes._tensors)))
        each = sum(x.numel() * x.element_size() for x in tree_leaves(state))
        return sum(kept.values()), known + (STEPS - 1) * each

    plain, _ = stored(recompute=False)
    lean, needed = stored(recompute=True)
    assert lean <= needed * 1.1 < plain / 2


def _walk(root, keep):
    """Every tensor that a graph has saved."""
    todo, seen = [root], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "saved_tensors"):
            for x in node.saved_tensors:
                if x is not None:
                    keep(x)
        for name in dir(node):
            if name.startswith("_saved_"):
                value = getattr(node, name)
                for x in value if isinstance(value, tuple) else (value,):
                    if isinstance(x, torch.Tensor):
                        keep(x)
        todo += [parent for parent, _ in node.next_functions]


def test_repeated_lanes_are_blocks_of_the_same_tasks():
    lanes, _, _ = setup(Regressions())
    twice = lanes.repeat(2)
    double = Lanes(lanes.tasks * 2, lanes.rule)
    assert twice.tasks == double.tasks
    torch.testing.assert_close(twice._tensors, double._tensors)


def test_replaced_lanes_equal_lanes_built_anew():
    tasks = [Regressions().sample(seeded(i)) for i in range(6)]
    rule = LearnedMomentum()
    replaced = Lanes(tasks[:4], rule).replace([3, 1], Lanes(tasks[4:], rule))
    rebuilt = Lanes([tasks[0], tasks[5], tasks[2], tasks[4]], rule)
    assert replaced.tasks == rebuilt.tasks
    torch.testing.assert_close(replaced._tensors, rebuilt._tensors)


def test_lanes_of_another_structure_cannot_join():
    rule = LearnedMomentum()
    with pytest.raises(ValueError, match="must have the structure of those they join"):
        Lanes([BOWL], rule).replace([0], Lanes([Regressions().sample(seeded(0))], rule))


class _Plain(Regression):
    """Batches of another form: a bare tensor, or a tuple with nothing in one place."""

    def loss(self, params, batch):
        x = batch if isinstance(batch, torch.Tensor) else batch[0]
        return super().loss(params, {"x": x, "y": x @ self.truth + 1.0})


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x, None)], ids=["tensor", "tuple with none"])
def test_a_batch_may_be_any_tree(wrap):
    lanes, state, batches = setup(Regressions())
    theta = theta_of(lanes.rule)
    same = Lanes([_Plain(task.truth) for task in lanes.tasks], lanes.rule)
    other = [wrap(batch["x"]) for batch in batches]
    torch.testing.assert_close(same.unroll(theta, state, other)[1], lanes.unroll(theta, state, batches)[1])
    torch.testing.assert_close(same.losses(state.params, other[0]), lanes.losses(state.params, batches[0]))


def test_every_lane_draws_its_own_batches():
    _, _, batches = setup(Regressions())
    assert len(batches) == STEPS
    seen = torch.cat([batch["x"][..., 0].flatten() for batch in batches])
    assert len(seen.unique()) == len(seen) == STEPS * 3 * 4


@pytest.mark.parametrize("spoil", ["missing", "extra", "half", "other lanes"])
def test_theta_must_fit_the_rule(spoil):
    lanes, state, batches = setup(Regressions())
    theta = theta_of(lanes.rule)
    if spoil == "missing":
        del theta["log_lr"]
    elif spoil == "extra":
        theta["more"] = theta["log_lr"]
    elif spoil == "half":
        theta["log_lr"] = theta["log_lr"].expand(3)
    else:
        theta = {name: value.expand(2) for name, value in theta.items()}
    with pytest.raises(ValueError, match="theta must have the rule's names and shapes"):
        lanes.unroll(theta, state, batches)


def test_wrong_arguments_are_told():
    with pytest.raises(Exception, match="order"):  # a ValueError; where types are checked, theirs comes first
        Lanes([BOWL], LearnedMomentum(), order="second")
    loop = InnerLoop(BOWL, LearnedMomentum())
    with pytest.raises(ValueError, match="at least one batch"):
        loop.unroll(theta_of(loop.rule), loop.reset(seeded(0)), [])


def test_unrolling_leaves_its_arguments_alone():
    lanes, state, batches = setup(HalvedRegressions())
    before = tree_map(torch.clone, state)
    lanes.unroll(theta_of(lanes.rule), state, batches)
    for a, b in zip(tree_leaves(state), tree_leaves(before), strict=True):
        assert torch.equal(a, b)


@pytest.mark.compiled
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_lanes_equal_eager_ones(recompute):
    """A nested task, theta of each lane: losses, last states and second-order meta-gradients."""
    results = []
    for compile in (False, True):
        lanes, state, batches = setup(HalvedRegressions(), compile=compile, recompute=recompute)
        shift = torch.tensor([0.0, 0.1, -0.2])
        theta = {n: (p.detach() + shift).requires_grad_() for n, p in lanes.rule.named_parameters()}
        end, losses = lanes.unroll(theta, state, batches)
        results.append((losses, tree_leaves(end), meta_gradient(theta, losses, end)))
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.compiled
@pytest.mark.filterwarnings("default")
def test_more_structures_than_the_compiler_keeps_of_one_function_compile(monkeypatch):
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda fn, **options: compile(fn, backend="eager", **options))
    rule = LearnedMomentum()
    with torch._dynamo.config.patch(recompile_limit=2):  # 8 unless patched
        for dim in range(1, 5):
            task = Bowl(torch.ones(dim).double(), torch.ones(dim).double())
            lanes, plain = Lanes([task], rule, compile=True), Lanes([task], rule)
            state = lanes.reset([seeded(0)])
            found, expected = (one.unroll(theta_of(rule), state, [None] * 2)[1] for one in (lanes, plain))
            torch.testing.assert_close(found, expected)

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l2o.optim import LearnedOptimizer
from l2o.rules import SGD, Adam, LSTMRule, MLPRule, Momentum, OptState, UpdateRule
from l2o.rules.base import zero_step
from tests.toys import parameter


class Recorder(UpdateRule):
    """Steps against the gradient, counts in `shared`, and notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[dict[str, Tensor], Tensor | None]] = []

    def init(self, params: dict[str, Tensor], total_steps: Any = None) -> OptState:
        device = next(iter(params.values())).device
        count = torch.zeros((), device=device)
        return OptState(zero_step(params), {key: {"start": p} for key, p in params.items()}, {"count": count})

    def forward(
        self, grads: dict[str, Tensor], state: OptState, params: dict[str, Tensor], loss: Tensor | None = None
    ) -> tuple[dict[str, Tensor], OptState]:
        self.calls.append((grads, loss))
        updates = {key: -0.1 * grad for key, grad in grads.items()}
        return updates, OptState(state.step + 1, state.slots, {"count": state.shared["count"] + 1})


def test_torch_refuses_what_it_always_refuses() -> None:
    with pytest.raises(ValueError, match="empty parameter list"):
        LearnedOptimizer([], SGD())
    with pytest.raises(TypeError, match="iterable of Tensors or dicts"):
        LearnedOptimizer(torch.ones(2), SGD())
    optimizer = LearnedOptimizer([parameter(1.0)], SGD())
    with pytest.raises(TypeError):
        optimizer.step(None, torch.ones(()))


def test_the_formula() -> None:
    p = parameter(2.0, grad=3.0)
    LearnedOptimizer([p], SGD(lr=0.1), lr=0.5, weight_decay=0.2).step()
    torch.testing.assert_close(p.detach(), torch.tensor([2.0 + 0.5 * (-0.1 * 3.0 - 0.1 * 0.2 * 2.0)]))


def test_settings_are_read_from_each_group_at_each_step() -> None:
    a, b, c = parameter(2.0), parameter(2.0), parameter(2.0)
    groups = [{"params": [a], "maximize": True}, {"params": [b], "weight_decay": 1.0}, {"params": [c], "lr": 0.0}]
    optimizer = LearnedOptimizer(groups, SGD(lr=0.1), lr=torch.tensor([1.0]))
    optimizer.step()
    torch.testing.assert_close(torch.cat([a, b, c]).detach(), torch.tensor([2.1, 1.7, 2.0]))
    optimizer.param_groups[2]["lr"] = torch.tensor(1.0)
    optimizer.step()
    torch.testing.assert_close(c.detach(), torch.tensor([1.9]))


def test_one_call_a_step_sees_all_groups_and_the_loss() -> None:
    ps = [parameter(1.0), parameter(1.0, 2.0), parameter(3.0, grad=None), parameter(4.0).requires_grad_(False)]
    optimizer = LearnedOptimizer([{"params": ps[:1]}, {"params": ps[1:]}], Recorder())
    assert optimizer.step(loss=torch.tensor([2.0])) == torch.tensor([2.0])
    assert optimizer.step(lambda: 3) == 3
    assert optimizer.step(lambda: "no number") == "no number"
    assert optimizer.step() is None
    grads, losses = zip(*optimizer.rule.calls, strict=True)
    assert [list(g) for g in grads] == [["0", "1"]] * 4, "frozen parameters and those without gradient are left alone"
    assert [x if x is None else x.item() for x in losses] == [2.0, 3.0, None, None]
    assert losses[0].shape == ()
    with pytest.raises(ValueError, match="a closure or a loss"):
        optimizer.step(lambda: 1.0, loss=1.0)


def test_the_loss_to_minimise_is_minus_the_one_to_maximise() -> None:
    optimizer = LearnedOptimizer([parameter(1.0)], Recorder(), maximize=True)
    optimizer.step(loss=2.0)
    assert optimizer.rule.calls[0][1] == -2.0
    optimizer.add_param_group({"params": [parameter(1.0)], "maximize": False})
    optimizer.step(loss=2.0)
    assert optimizer.rule.calls[1][1] is None, "the groups disagree"


def test_what_is_shared_stands_in_each_parameters_state_and_its_slots_are_its_own() -> None:
    a, b = parameter(1.0), parameter(2.0)
    optimizer = LearnedOptimizer([a, b], Recorder())
    optimizer.step()
    b.grad = None
    optimizer.step()
    for p in (a, b):
        assert (int(optimizer.state[p]["step"]), float(optimizer.state[p]["shared.count"])) == (2, 2.0)
    assert optimizer.state[a]["shared.count"] is optimizer.state[b]["shared.count"]
    assert float(optimizer.state[a]["start"]) == 1.0, "not the parameter's own memory, which has moved on"


def test_float64_copies_of_theta_follow_the_rule() -> None:
    p, rule = parameter(1.0, dtype=torch.float64), SGD(lr=0.1)
    optimizer = LearnedOptimizer([p], rule)
    optimizer.step()
    with torch.no_grad():
        rule.log_lr.add_(torch.tensor(2.0).log())
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([1.0 - 0.1 - 0.2], dtype=torch.float64))
    assert rule.log_lr.dtype == torch.float32


def test_the_step_counts_on_where_precisions_mix() -> None:
    small, large = parameter(1.0), parameter(1.0, dtype=torch.float64)
    optimizer = LearnedOptimizer([small], Adam())
    optimizer.step()
    optimizer.add_param_group({"params": [large]})
    optimizer.step()
    assert (small.dtype, large.dtype) == (torch.float32, torch.float64)
    assert int(optimizer.state[large]["step"]) == 2


def test_a_changed_shape_is_refused() -> None:
    p = parameter(1.0, 2.0)
    optimizer = LearnedOptimizer([("weight", p)], Momentum())
    optimizer.step()
    p.grad, p.data = None, torch.ones(3)
    p.grad = torch.ones(3)
    with pytest.raises(ValueError, match=r"must keep its shape.*parameter 0 \(weight\) was \(2,\) and is now \(3,\)"):
        optimizer.step()
    optimizer.state[p] = {}
    optimizer.step()


@pytest.mark.parametrize(
    ("shape", "rule", "match"),
    [
        ((2, 3), LSTMRule(hidden_size=4), "state must be that of LSTMRule.*'hidden' is missing, 'm' is unknown"),
        ((3, 2), Adam(), r"'m' has shape \(2, 3\), not \(3, 2\)"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(shape: tuple[int, ...], rule: UpdateRule, match: str) -> None:
    optimizers = []
    for size, r in (((2, 3), Adam()), (shape, rule)):
        p = nn.Parameter(torch.ones(size))
        p.grad = torch.ones(size)
        optimizers.append(LearnedOptimizer([p], r, lr=0.1 * (1 + len(optimizers))))
        optimizers[-1].step()
    first, second = optimizers
    before = copy.deepcopy(second.state_dict())
    with pytest.raises(ValueError, match=match):
        second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["lr"] == 0.2
    assert all(torch.equal(x, before["state"][0][key]) for key, x in second.state_dict()["state"][0].items())
    assert not second._optimizer_load_state_dict_pre_hooks


def test_older_and_foreign_state_dicts() -> None:
    p = parameter(1.0)
    optimizer = LearnedOptimizer([p], Adam(), lr=0.5)
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    del state["param_groups"][0]["maximize"], state["param_groups"][0]["weight_decay"]
    state["state"][0]["step"] = 7.0  # as some tools keep it
    optimizer.load_state_dict(state)
    optimizer.step()
    assert int(optimizer.state[p]["step"]) == 8 and optimizer.state[p]["step"].dtype == torch.int64
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optimizer.load_state_dict({"state": {}, "param_groups": []})
    with pytest.raises(ValueError, match="doesn't match the size"):
        optimizer.load_state_dict({"state": {}, "param_groups": [{"params": [0, 1]}]})


def test_what_is_not_finite_is_named() -> None:
    rule = Momentum()
    for fault in ("loss", "gradient", "update", "state"):
        p = parameter(1.0)
        optimizer = LearnedOptimizer([("w", p)], rule, nonfinite="raise")
        if fault == "gradient":
            p.grad[0] = float("inf")
        if fault in ("update", "state"):
            optimizer.step()
            optimizer.state[p]["momentum"] = torch.tensor([float("nan")])
        match = (
            "loss is not"
            if fault == "loss"
            else f"{'gradient' if fault == 'gradient' else 'update'} of parameter 0 .w."
        )
        with pytest.raises(FloatingPointError, match=match):
            optimizer.step(loss=float("nan") if fault == "loss" else None)
        assert p.isfinite().all()


class Squares(Recorder):
    """Remembers the gradient's square and divides by it."""

    def init(self, params: dict[str, Tensor], total_steps: Any = None) -> OptState:
        return OptState(zero_step(params), {key: {"v": torch.zeros_like(p)} for key, p in params.items()}, {})

    def forward(
        self, grads: dict[str, Tensor], state: OptState, params: dict[str, Tensor], loss: Tensor | None = None
    ) -> tuple[dict[str, Tensor], OptState]:
        slots = {key: {"v": state.slots[key]["v"] + grad.square()} for key, grad in grads.items()}
        updates = {key: -grads[key] / (1 + slots[key]["v"]) for key in grads}
        return updates, OptState(state.step + 1, slots, {})


def test_a_state_that_overflows_is_not_kept() -> None:
    p = parameter(1.0, grad=1e30)  # its square is infinite and the update zero: for ever, if it were kept
    optimizer = LearnedOptimizer([p], Squares())
    with pytest.warns(RuntimeWarning, match="the state of parameter 0 is not"):
        optimizer.step()
    assert not optimizer.state.get(p) and optimizer.skipped_steps == 1


def test_huge_finite_gradients_are_finite() -> None:
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.full_like(p, 3e38)
    LearnedOptimizer([p], SGD(lr=1e-38), nonfinite="raise").step()
    torch.testing.assert_close(p.detach(), torch.full((2,), -3.0), rtol=1e-3, atol=0.0)


def test_ignoring_does_not_look() -> None:
    p = parameter(1.0, grad=float("nan"))
    LearnedOptimizer([p], SGD(), nonfinite="ignore").step()
    assert p.isnan().all()


def test_hooks_and_schedulers() -> None:
    p, seen = parameter(1.0), []
    optimizer = LearnedOptimizer([p], SGD(lr=1.0))
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    assert seen == ["before", "after"] * 3
    torch.testing.assert_close(p.detach(), torch.tensor([1.0 - 1.0 - 0.5 - 0.25]))


def test_slots_may_not_take_the_optimizers_names() -> None:
    class Greedy(Recorder):
        def init(self, params: dict[str, Tensor], total_steps: Any = None) -> OptState:
            return OptState(
                zero_step(params), {key: {"step": p} for key, p in params.items()}, {"count": torch.zeros(())}
            )

    with pytest.raises(ValueError, match="a slot must not be called 'step'"):
        LearnedOptimizer([parameter(1.0)], Greedy()).step()


def test_without_a_compiler_it_goes_on_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiler(fn: Any, **kwargs: Any) -> Any:
        def fail(*args: Any) -> None:
            raise RuntimeError("no C++ compiler")

        return fail

    monkeypatch.setattr(torch, "compile", compiler)
    p = parameter(1.0)
    optimizer = LearnedOptimizer([p], SGD(lr=0.1), compile=True)
    with pytest.warns(RuntimeWarning, match="goes on without torch.compile, which failed: no C"):
        optimizer.step()
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([0.8]))


@pytest.mark.compiled
def test_compiled_steps_equal_plain_ones() -> None:
    results = []
    for compile in (False, True):
        torch.manual_seed(0)
        net = nn.Linear(3, 2)
        optimizer = LearnedOptimizer(net.parameters(), MLPRule(), compile=compile)
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.ones(2, 3)).square().sum().backward()
            optimizer.step()
        results.append(net.weight.detach())
    torch.testing.assert_close(*results)


@pytest.mark.compiled
@pytest.mark.filterwarnings("default")
def test_optimizers_do_not_use_up_each_others_compiled_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    compile, graphs = torch.compile, []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda fn, **options: compile(fn, backend=backend, **options))
    with torch._dynamo.config.patch(recompile_limit=2):  # 8 unless patched
        for size in range(1, 5):
            p = parameter(*[1.0] * size)
            LearnedOptimizer([p], SGD(lr=0.1), compile=True).step()
            torch.testing.assert_close(p.detach(), torch.full((size,), 0.9))
            assert len(graphs) == size

"""Rules played from graphs: what is copied where, without a GPU. `tests/integration/test_gpu.py` has the real ones."""

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import l2o
from l2o.optim import graph as graphs
from l2o.optim.runner import MAX_COUNTED, MAX_GRAPHS, WARM_UP, Runner
from l2o.rules import UpdateRule
from l2o.rules.base import OptState, zero_step
from l2o.rules.coordinates import deferring, now_deferring
from l2o.types import Params


class Apart:
    """A stream, or what stands for one."""

    def wait_stream(self, other: object) -> None:
        pass


class Recorded:
    """A graph that computes its call again, from and to the memory that it was recorded with."""

    play: Callable[[], None]

    def replay(self) -> None:
        self.play()


@pytest.fixture
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, fake in {
        "CUDAGraph": Recorded,
        "graph": lambda graph, **how: contextlib.nullcontext(),
        "device": lambda device: contextlib.nullcontext(),
        "stream": lambda stream: contextlib.nullcontext(),
        "Stream": Apart,
        "current_stream": Apart,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    made, started = graphs.Graph.__init__, Runner.__call__

    def recorded(self: graphs.Graph, call: graphs.Call, *args: Any, **how: Any) -> None:
        given: list[Any] = []

        def watched(*args: Any) -> Any:
            given[:] = args
            return call(*args)

        wanted = now_deferring() is not None
        made(self, watched, *args, **how)

        def play() -> None:
            with deferring(wanted):
                updates, state = call(*given)
            for name, x in updates.items():
                self._updates[name].copy_(x)
            places = graphs._places(state)
            for place, x in zip(places, graphs._leaves(places, {}, state, {}, None), strict=True):
                if place not in self._stays:
                    self._outputs[place].copy_(x)

        self._graph.play = play  # type: ignore[attr-defined]

    def called(self: Runner, grads: Any, state: Any, params: Any, loss: Any) -> Any:
        like = next(iter(params.values()))
        if self.graph:
            return self._played(self._theta(like.device, like.dtype), grads, state, params, loss)
        return started(self, grads, state, params, loss)

    monkeypatch.setattr(graphs.Graph, "__init__", recorded)
    monkeypatch.setattr(Runner, "__call__", called)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(48, 7), nn.Tanh(), nn.Linear(7, 2))


def train(model: nn.Module, optimizer: l2o.LearnedOptimizer, num: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num):
        x = torch.randn(4, 1, 6, 6, generator=generator).to(next(model.parameters()).dtype)
        optimizer.zero_grad()
        loss = (model(x) - x.mean()).square().mean()
        loss.backward()
        optimizer.step(loss=loss.detach())


def numbers(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def optimizers(rule: UpdateRule, **options: Any) -> list[tuple[nn.Module, l2o.LearnedOptimizer]]:
    """The same, as usual and with a graph."""
    models = network(), network()
    return [
        (model, l2o.LearnedOptimizer(model.parameters(), copy.deepcopy(rule), total_steps=40, graph=graph, **options))
        for model, graph in zip(models, (False, True), strict=True)
    ]


class Hands(UpdateRule):
    """A rule that hands on what it is given: gradient and loss become state, and that other state."""

    def init(self, params: Params, total_steps: int | Tensor | None = None) -> OptState:
        slots = {name: {"last": torch.zeros_like(p), "earlier": torch.zeros_like(p)} for name, p in params.items()}
        return OptState(zero_step(params), slots, {"loss": torch.zeros(())})

    def forward(
        self, grads: Params, state: OptState, params: Params, loss: Tensor | None = None
    ) -> tuple[Params, OptState]:
        assert loss is not None
        size = 0.01 + 0.01 * (loss - state.shared["loss"])
        updates = {name: -size * (grads[name] + slot["last"] - slot["earlier"]) for name, slot in state.slots.items()}
        slots = {name: {"last": grads[name], "earlier": slot["last"]} for name, slot in state.slots.items()}
        return updates, OptState(state.step + 1, slots, {"loss": loss})


def fresh(name: str) -> UpdateRule:
    torch.manual_seed(1)
    return Hands() if name == "hands" else l2o.load(name)


@pytest.mark.usefixtures("_no_gpu")
@pytest.mark.filterwarnings("ignore:rule=.* is a fresh")
@pytest.mark.parametrize("rule", ["adam", "mlp", "lstm", "matrix", "velo", "default", "hands"])
def test_steps_are_those_without(rule: str) -> None:
    ends = []
    for model, optimizer in optimizers(fresh(rule)):
        train(model, optimizer, 6)
        saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        train(model, optimizer, 4, seed=1)
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
        train(model, optimizer, 5, seed=2)
        next(model.parameters()).requires_grad_(False)  # fewer parameters, later as many as before
        train(model, optimizer, 4, seed=3)
        next(model.parameters()).requires_grad_(True)
        for p in model.parameters():  # memory of others
            p.data = p.detach().clone()
        train(model, optimizer, 4, seed=4)
        assert len(optimizer._runner._graphs) == 2 * optimizer.graph
        ends.append(numbers(model))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], numbers(network()))


@pytest.mark.usefixtures("_no_gpu")
@pytest.mark.filterwarnings("ignore:rule=.* is a fresh", "ignore:l2o leaves out steps")
@pytest.mark.parametrize("rule", ["mlp", "default", "hands"])
def test_a_step_that_is_not_made_changes_nothing(rule: str) -> None:
    ends = []
    for model, optimizer in optimizers(fresh(rule)):
        train(model, optimizer, 5)
        before, state = numbers(model), copy.deepcopy(optimizer.state_dict()["state"])
        next(model.parameters()).grad.view(-1)[0] = float("nan")
        optimizer.step(loss=torch.ones(()))
        assert optimizer.skipped_steps == 1
        assert torch.equal(numbers(model), before)
        now = optimizer.state_dict()["state"]
        for i, slots in state.items():
            assert all(torch.equal(x, now[i][key]) for key, x in slots.items())
        train(model, optimizer, 3, seed=1)
        ends.append(numbers(model))
    assert torch.equal(ends[0], ends[1])


@pytest.mark.usefixtures("_no_gpu")
@pytest.mark.filterwarnings("ignore:rule=.* is a fresh")
def test_half_precision_parameters_are_copied() -> None:
    ends = []
    for model, optimizer in optimizers(fresh("mlp")):
        model.to(torch.bfloat16)
        generator = torch.Generator().manual_seed(0)
        for _ in range(6):
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=generator).bfloat16()
            optimizer.step(loss=torch.ones(()))
        assert len(optimizer._runner._graphs) == optimizer.graph
        ends.append(numbers(model))
    assert torch.equal(ends[0], ends[1])


@pytest.mark.usefixtures("_no_gpu")
@pytest.mark.filterwarnings("ignore:rule=.* is a fresh")
def test_graphs_are_few() -> None:
    layers = nn.ModuleList(nn.Linear(1, i + 1) for i in range(MAX_GRAPHS + 2))
    optimizer = l2o.LearnedOptimizer(layers.parameters(), "mlp", graph=True)
    for layer in layers:
        for _ in range(WARM_UP + 1):
            optimizer.zero_grad()
            layer(torch.ones(1)).sum().backward()
            optimizer.step(loss=torch.ones(()))
    assert len(optimizer._runner._graphs) == MAX_GRAPHS


@pytest.mark.usefixtures("_no_gpu")
def test_kinds_that_come_once_are_forgotten() -> None:
    layers = nn.ModuleList(nn.Linear(1, i + 1) for i in range(MAX_COUNTED + 2))
    optimizer = l2o.LearnedOptimizer(layers.parameters(), "adam", graph=True)
    for layer in layers:
        optimizer.zero_grad()
        layer(torch.ones(1)).sum().backward()
        optimizer.step()
    assert len(optimizer._runner._met) == MAX_COUNTED and not optimizer._runner._graphs


@pytest.mark.usefixtures("_no_gpu")
@pytest.mark.filterwarnings("ignore:rule=.* is a fresh")
@pytest.mark.parametrize("rule", ["hands", "mlp"])
def test_other_precision_and_other_weights_are_other_graphs(rule: str) -> None:
    ends = []
    for model, optimizer in optimizers(fresh(rule)):
        train(model, optimizer, WARM_UP + 2)
        model.double()
        train(model, optimizer, WARM_UP + 2, seed=1)
        assert len(optimizer._runner._graphs) == 2 * optimizer.graph
        with torch.no_grad():
            for p in optimizer.rule.parameters():  # of which there is a copy in float64
                p.mul_(1.5)
        train(model, optimizer, WARM_UP + 2, seed=2)
        assert len(optimizer._runner._graphs) <= 2
        ends.append(numbers(model))
    assert ends[1].dtype == torch.float64 and torch.equal(ends[0], ends[1])


@pytest.mark.usefixtures("_no_gpu")
def test_a_rule_that_cannot_be_recorded_goes_on_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: graphs.Graph, *args: Any, **how: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs.Graph, "__init__", refuse)
    ends = []
    for model, optimizer in optimizers(fresh("adam")):
        train(model, optimizer, WARM_UP)
        if optimizer.graph:
            with pytest.warns(RuntimeWarning, match="goes on without a CUDA graph: operation not permitted"):
                train(model, optimizer, 1, seed=1)
        else:
            train(model, optimizer, 1, seed=1)
        train(model, optimizer, 2, seed=2)
        ends.append(numbers(model))
    assert torch.equal(ends[0], ends[1])


def test_without_a_gpu_nothing_is_recorded() -> None:
    model, optimizer = optimizers(fresh("adam"))[1]
    train(model, optimizer, WARM_UP + 2)
    assert not optimizer._runner._graphs

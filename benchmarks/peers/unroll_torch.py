"""Truncated backpropagation through an LSTM optimizer with `higher` or TorchOpt: one meta-gradient a repetition.

The coordinatewise LSTM of Andrychowicz et al. (2016), two layers of 20, trains 64-32-10 perceptrons on random inputs,
batch 64, for a window of steps; inner gradients are constants (first order), as in the paper. Both libraries train one
task at a time: the meta-gradient is accumulated over a loop. That they give the same one is checked before the first.

    venv_torch/bin/python benchmarks/peers/unroll_torch.py --refs refs --library higher --num-tasks 16
"""

from __future__ import annotations

import math
import warnings
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from protocol import Run, parser, serve
from torch import Tensor, nn

Batches = tuple[Tensor, Tensor]
States = tuple[tuple[Tensor, Tensor], ...]


class Rule(nn.Module):
    """Gradients (n,) and hidden states to steps (n,) and hidden states."""

    def __init__(self, hidden_size: int = 20) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.cells = nn.ModuleList([nn.LSTMCell(2, hidden_size), nn.LSTMCell(hidden_size, hidden_size)])
        self.output = nn.Linear(hidden_size, 1, bias=False)
        with torch.no_grad():
            self.output.weight.mul_(0.01)

    def start(self, num: int) -> States:
        """States of `num` coordinates."""
        return tuple((torch.zeros(num, self.hidden_size), torch.zeros(num, self.hidden_size)) for _ in self.cells)

    def forward(self, grad: Tensor, states: States, p: float = 10.0) -> tuple[Tensor, States]:
        log = torch.log(grad.abs().clamp(min=math.exp(-p))) / p
        z = torch.stack([log, (grad * math.exp(p)).clamp(-1.0, 1.0)], dim=1)
        new = []
        for cell, state in zip(self.cells, states, strict=True):
            z, c = cell(z, state)
            new.append((z, c))
        return 0.1 * self.output(z).squeeze(1), tuple(new)

    def steps(self, grads: list[Tensor], states: States | None) -> tuple[list[Tensor], States]:
        """The same for tensors: one call for all coordinates."""
        sizes = [grad.numel() for grad in grads]
        states = self.start(sum(sizes)) if states is None else states
        step, states = self(torch.cat([grad.flatten() for grad in grads]), states)
        return [s.view_as(grad) for s, grad in zip(step.split(sizes), grads, strict=True)], states


def network() -> nn.Sequential:
    """A fresh optimizee."""
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def with_higher(rule: Rule) -> Callable[[nn.Module, Batches], Tensor]:
    """A window's mean training loss, unrolled by `higher`."""
    import higher
    from higher.optim import DifferentiableOptimizer

    class Optimizer(torch.optim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {})

    class Differentiable(DifferentiableOptimizer):
        states: States | None = None

        def _update(self, grouped_grads: list[list[Tensor]], **kwargs: Any) -> None:
            (group,), (grads,) = self.param_groups, grouped_grads
            steps, self.states = rule.steps([grad.detach() for grad in grads], self.states)
            group["params"] = [p + step for p, step in zip(group["params"], steps, strict=True)]

    higher.register_optim(Optimizer, Differentiable)

    def unroll(model: nn.Module, batches: Batches) -> Tensor:
        losses = []
        with higher.innerloop_ctx(model, Optimizer(model.parameters())) as (fast, optimizer):
            for x, y in zip(*batches, strict=True):
                loss = F.cross_entropy(fast(x), y)
                optimizer.step(loss)
                losses.append(loss)
        return torch.stack(losses).mean()

    return unroll


def with_torchopt(rule: Rule) -> Callable[[nn.Module, Batches], Tensor]:
    """The same, unrolled by TorchOpt's functional form, which spares the graph of the inner gradient."""
    import torchopt
    from torch.func import functional_call
    from torchopt.base import GradientTransformation

    def update(grads: Any, state: Any, *, params: Any = None, inplace: bool = True) -> tuple[Any, Any]:
        steps, state = rule.steps(list(grads), state)
        return tuple(steps), state

    optimizer = GradientTransformation(lambda params: None, update)

    def unroll(model: nn.Module, batches: Batches) -> Tensor:
        names = [name for name, _ in model.named_parameters()]
        params = tuple(model.parameters())
        state, losses = optimizer.init(params), []
        for x, y in zip(*batches, strict=True):
            loss = F.cross_entropy(functional_call(model, dict(zip(names, params, strict=True)), (x,)), y)
            grads = torch.autograd.grad(loss, params, retain_graph=True)
            updates, state = optimizer.update(grads, state, params=params, inplace=False)
            params = torchopt.apply_updates(params, updates, inplace=False)
            losses.append(loss)
        return torch.stack(losses).mean()

    return unroll


LIBRARIES = {"higher": with_higher, "torchopt": with_torchopt}


def meta_gradient(
    rule: Rule, unroll: Callable[[nn.Module, Batches], Tensor], num_tasks: int, window: int
) -> list[Tensor]:
    """Mean over tasks, one task after the other."""
    rule.zero_grad()
    for _ in range(num_tasks):
        batches = torch.randn(window, 64, 64), torch.randint(10, (window, 64))
        (unroll(network(), batches) / num_tasks).backward()
    return [p.grad.clone() for p in rule.parameters() if p.grad is not None]


def check(rule: Rule) -> None:
    """Both libraries must give the same meta-gradient."""
    found = []
    for library in LIBRARIES.values():
        torch.manual_seed(1)
        found.append(meta_gradient(rule, library(rule), num_tasks=1, window=3))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert any(grad.abs().max() > 0 for grad in found[0])


def start(options: Namespace) -> tuple[Run, dict[str, Any]]:
    """A meta-gradient."""
    torch.manual_seed(0)
    rule = Rule()
    unroll = LIBRARIES[options.library](rule)
    return lambda: meta_gradient(rule, unroll, options.num_tasks, options.window), {"torch": torch.__version__}


def main() -> None:
    """Serve."""
    options = parser()
    options.add_argument("--library", choices=list(LIBRARIES), default="higher")
    options.add_argument("--num-tasks", type=int, default=16)
    options.add_argument("--window", type=int, default=20)
    given = options.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(given.threads)
    check(Rule())
    serve(lambda: start(given))


if __name__ == "__main__":
    main()

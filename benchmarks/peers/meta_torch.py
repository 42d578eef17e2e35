"""A meta-iteration of MAML or of prototypical networks with another library, or written by hand: one a repetition.

For every task inner steps of SGD on the support set and the query loss, gradients of second order, their mean over
the tasks, a step of Adam. The first answer tells loss and gradient norm at the initial weights, by which systems are
checked to do the same.

    venv_torch/bin/python benchmarks/peers/meta_torch.py --refs refs --library learn2learn --problem sinusoid
"""

from __future__ import annotations

import sys
import warnings
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from meta_problems import Batch, conv4, images, sinusoid_network, sinusoids
from protocol import Run, parser, serve
from torch import Tensor, nn
from torch.func import functional_call

Loss = Callable[[Tensor, Tensor], Tensor]
Step = Callable[[Batch], float]
"""Leaves the mean gradient in the network's parameters; returns the mean query loss."""


def with_learn2learn(network: nn.Module, loss_of: Loss, options: Namespace) -> Step:
    """Clones of the network, a task at a time."""
    maml = _learn2learn(options).algorithms.MAML(network, lr=options.inner_lr)

    def one(x: Tensor, y: Tensor, x_query: Tensor, y_query: Tensor) -> Tensor:
        clone = maml.clone()
        for _ in range(options.steps):
            clone.adapt(loss_of(clone(x), y))
        return loss_of(clone(x_query), y_query)

    return lambda batch: _each(one, batch)


def with_higher(network: nn.Module, loss_of: Loss, options: Namespace) -> Step:
    """Monkey-patched copies, a task at a time."""
    import higher

    inner = torch.optim.SGD(network.parameters(), lr=options.inner_lr)

    def step(batch: Batch) -> float:
        total = 0.0
        for x, y, x_query, y_query in zip(*batch, strict=True):
            with higher.innerloop_ctx(network, inner, copy_initial_weights=False) as (moving, optimizer):
                for _ in range(options.steps):
                    optimizer.step(loss_of(moving(x), y))
                loss = loss_of(moving(x_query), y_query) / len(batch.x)
                loss.backward()
            total += float(loss)
        return total

    return step


def with_torchopt(network: nn.Module, loss_of: Loss, options: Namespace) -> Step:
    """Its differentiable SGD, put back after every task."""
    import torchopt

    inner = torchopt.MetaSGD(network, lr=options.inner_lr)

    def one(x: Tensor, y: Tensor, x_query: Tensor, y_query: Tensor) -> Tensor:
        for _ in range(options.steps):
            inner.step(loss_of(network(x), y))
        return loss_of(network(x_query), y_query)

    def step(batch: Batch) -> float:
        weights = torchopt.extract_state_dict(network, by="reference")
        state = torchopt.extract_state_dict(inner, by="reference")
        total = 0.0
        for task in zip(*batch, strict=True):
            loss = one(*task) / len(batch.x)
            loss.backward()
            total += float(loss)
            torchopt.recover_state_dict(network, weights)
            torchopt.recover_state_dict(inner, state)
        return total

    return step


def by_hand(network: nn.Module, loss_of: Loss, options: Namespace) -> Step:
    """functional_call and torch.autograd.grad, a task at a time."""

    def one(x: Tensor, y: Tensor, x_query: Tensor, y_query: Tensor) -> Tensor:
        weights = dict(network.named_parameters())
        for _ in range(options.steps):
            loss = loss_of(functional_call(network, weights, (x,)), y)
            grads = torch.autograd.grad(loss, tuple(weights.values()), create_graph=True)
            weights = {name: w - options.inner_lr * g for (name, w), g in zip(weights.items(), grads, strict=True)}
        return loss_of(functional_call(network, weights, (x_query,)), y_query)

    return lambda batch: _each(one, batch)


def prototypes_by_hand(network: nn.Module, loss_of: Loss, options: Namespace) -> Step:
    """One pass for support and query, an episode at a time."""

    def one(x: Tensor, y: Tensor, x_query: Tensor, y_query: Tensor) -> Tensor:
        z, z_query = network(torch.cat([x, x_query])).split([len(x), len(x_query)])
        means = z.view(-1, options.way, z.shape[-1]).mean(0)
        distance = z_query.square().sum(-1, keepdim=True) - 2 * z_query @ means.T + means.square().sum(-1)
        return F.cross_entropy(-distance, y_query)

    return lambda batch: _each(one, batch)


def prototypes_with_learn2learn(network: nn.Module, loss_of: Loss, options: Namespace) -> Step:
    """Its PrototypicalClassifier, an episode at a time."""
    classifier = _learn2learn(options).nn.PrototypicalClassifier

    def one(x: Tensor, y: Tensor, x_query: Tensor, y_query: Tensor) -> Tensor:
        return F.cross_entropy(
            classifier(support=network(x), labels=y, distance="euclidean")(network(x_query)), y_query
        )

    return lambda batch: _each(one, batch)


MAML = {"learn2learn": with_learn2learn, "higher": with_higher, "torchopt": with_torchopt, "hand": by_hand}
PROTOTYPES = {"learn2learn": prototypes_with_learn2learn, "hand": prototypes_by_hand}


def _each(one: Callable[..., Tensor], batch: Batch) -> float:
    total = 0.0
    for task in zip(*batch, strict=True):
        loss = one(*task) / len(batch.x)
        loss.backward()
        total += float(loss.detach())
    return total


def _learn2learn(options: Namespace) -> Any:
    """The checkout, whose C files are built in place; it imports torchvision, which needs two operators declared."""
    sys.path.insert(0, str(options.refs / "learn2learn"))
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import learn2learn

    return learn2learn


def start(options: Namespace) -> tuple[Run, dict[str, Any]]:
    """A meta-iteration."""
    torch.manual_seed(options.seed)
    if options.problem == "sinusoid":
        network, batch = sinusoid_network(), sinusoids(options.num_tasks, options.shot, options.query, options.seed)
    else:
        network = conv4(options.way if options.problem == "conv4" else 0)
        batch = images(options.num_tasks, options.way, options.shot, options.query, options.seed)
    loss_of = F.mse_loss if options.problem == "sinusoid" else F.cross_entropy
    libraries = PROTOTYPES if options.problem == "proto" else MAML
    step = libraries[options.library](network, loss_of, options)
    outer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)

    def run() -> None:
        outer.zero_grad()
        step(batch)
        outer.step()

    loss = step(batch)
    norm = torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None]).norm()
    return run, {"torch": torch.__version__, "loss": loss, "grad_norm": float(norm)}


def main() -> None:
    """Serve."""
    options = parser()
    options.add_argument("--library", choices=list(MAML), default="learn2learn")
    options.add_argument("--problem", choices=["sinusoid", "conv4", "proto"], default="sinusoid")
    options.add_argument("--steps", type=int, default=1)
    options.add_argument("--num-tasks", type=int, default=25)
    options.add_argument("--way", type=int, default=5)
    options.add_argument("--shot", type=int, default=10)
    options.add_argument("--query", type=int, default=10)
    options.add_argument("--inner-lr", type=float, default=0.01)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(given.threads)
    serve(lambda: start(given))


if __name__ == "__main__":
    main()

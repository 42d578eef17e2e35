"""The gradient of the query loss with respect to slow weights and theta, over many episodes at once or one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from l2o.compiled import compiled
from l2o.learners.adaptation import Adaptation
from l2o.learners.transforms import has_ties
from l2o.recording import traced
from l2o.tasks.episodes import Episode
from l2o.types import Theta, tree_leaves, tree_map


class MetaGrad(NamedTuple):
    """The mean gradient over the episodes that gave a finite one, and what each episode gave.

    grads: with the names and shapes of theta; zero where no episode was usable.
    losses, scores: of each episode, see `Outcome`.
    finite: which episodes count in the mean.
    """

    grads: Theta
    losses: Float[Tensor, " episodes"]
    scores: Float[Tensor, " episodes"]
    finite: Bool[Tensor, " episodes"]


def meta_grad(
    adaptation: Adaptation,
    episodes: Episode,
    theta: Theta | None = None,
    batching: str = "auto",
    weights: Float[Tensor, " steps"] | None = None,
    compile: bool = False,
    trace: bool = False,
) -> MetaGrad:
    """The gradient of the mean query loss.

    Arguments:
        episodes: stacked along a leading axis.
        theta: values of parameters, by name, to take the gradient at and with respect to; None for those of the
            adaptation that are trained (`requires_grad`).
        batching: `loop` takes one episode after the other; `vmap` all at once; `chunk:n` n at once; `auto` loops over
            networks with convolutions on a CPU, where grouped convolutions are slower and take ten times the memory,
            and where steps are recomputed. Learners that take stacked episodes and make no steps get them as one batch.
        weights: see `Adaptation`.
        compile: fuse the whole with `torch.compile`, not with `loop`; the first call takes from 10 seconds to minutes.
        trace: record its operations on tensors and play them back, not with `loop`: faster for small networks,
            without a compiler; the first call takes a second or two.

    Raises:
        ValueError: an unknown batching, or both compile and trace.
    """
    if compile and trace:
        raise ValueError("compile and trace are two ways to the same end; got both.")
    if theta is None:
        theta = {name: p.detach() for name, p in adaptation.named_parameters() if p.requires_grad}
    num = len(tree_leaves(episodes)[0])
    if takes_stacked(batching, adaptation) and not (compile or trace):
        tied = has_ties(adaptation)
        found = _of_the_mean(lambda leaves: functional_call(adaptation, leaves, (episodes,), tie_weights=tied), theta)
        if found is not None:
            return found
    size = lanes_of(batching, adaptation, episodes, num)
    if size == 0:
        return _loop(adaptation, theta, episodes, num, weights)
    function = _batched(adaptation, "compile" if compile else "trace" if trace else "", adaptation.training)
    parts = [function(theta, part, weights) for part in _chunks(episodes, num, size)]
    if len(parts) == 1:
        return parts[0]
    count = torch.stack([part.finite.sum() for part in parts])
    share = count.double() / count.sum().clamp(min=1)
    grads = {
        name: torch.stack(
            [part.grads[name] * s.to(theta[name].dtype) for part, s in zip(parts, share, strict=True)]
        ).sum(0)
        for name in theta
    }
    return MetaGrad(grads, *(torch.cat(of_all) for of_all in zip(*(part[1:] for part in parts), strict=True)))


def _loop(adaptation: Adaptation, theta: Theta, episodes: Episode, num: int, weights: Tensor | None) -> MetaGrad:
    leaves = {name: value.detach().requires_grad_() for name, value in theta.items()}
    tied, total = has_ties(adaptation), None
    outcomes, usable = [], []
    for i in range(num):
        with torch.enable_grad():
            episode = tree_map(lambda x, i=i: x[i], episodes)
            outcome = functional_call(adaptation, leaves, (episode, weights), tie_weights=tied)
            found = torch.autograd.grad(outcome.loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        finite = _all_finite(outcome.loss.detach(), *found)
        outcomes.append((outcome.loss.detach(), outcome.score))
        usable.append(finite)
        if finite and total is None:
            total = [grad.clone() for grad in found]
        elif finite:
            assert total is not None
            torch._foreach_add_(total, found)
    if total is None:
        total = [torch.zeros_like(value) for value in leaves.values()]
    torch._foreach_div_(total, max(1, sum(usable)))
    losses, scores = (torch.stack(values) for values in zip(*outcomes, strict=True))
    return MetaGrad(dict(zip(theta, total, strict=True)), losses, scores, torch.tensor(usable, device=losses.device))


def _of_the_mean(outcomes: Callable[[Theta], Any], theta: Theta) -> MetaGrad | None:
    """The gradient of the mean loss without those of single episodes, in half the time where there are many weights.

    None where something is not finite, because nobody knows then whose fault it was.

    Arguments:
        outcomes: losses and scores of all episodes, as two vectors; without inner steps, because second derivatives
            are right within each episode only, see `_batched`.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in theta.items()}
    with torch.enable_grad():
        losses, scores = outcomes(leaves)
        found = torch.autograd.grad(losses.mean(), list(leaves.values()), allow_unused=True, materialize_grads=True)
    losses = losses.detach()
    if not _all_finite(losses, *found):
        return None
    return MetaGrad(dict(zip(theta, found, strict=True)), losses, scores, torch.ones_like(losses, dtype=torch.bool))


@lru_cache(maxsize=8)
def _batched(adaptation: Adaptation, how: str, training: bool) -> Callable[..., MetaGrad]:
    def loss(theta: Theta, episode: Episode, weights: Tensor | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        outcome = functional_call(adaptation, theta, (episode, weights), tie_weights=tied)
        return outcome.loss, (outcome.loss, outcome.score)

    tied = has_ties(adaptation)

    # each episode's own gradient, inside the vmap: from outside, second derivatives through batch norm would be wrong
    def one(theta: Theta, episode: Episode, weights: Tensor | None) -> tuple[Theta, tuple[Tensor, Tensor]]:
        return grad(lambda theta: loss(theta, episode, weights), has_aux=True)(theta)

    each = vmap(one, in_dims=(None, 0, None), randomness="different")
    outcomes = vmap(loss, in_dims=(None, 0, None), randomness="different")

    def all_at_once(theta: Theta, episodes: Episode, weights: Tensor | None) -> MetaGrad:
        if not how and adaptation.steps == 0:
            found = _of_the_mean(lambda leaves: outcomes(leaves, episodes, weights)[1], theta)
            if found is not None:
                return found
        grads, (losses, scores) = each(theta, episodes, weights)
        if not how:  # most often all are finite, and then so is their mean
            means = {name: g.mean(0) for name, g in grads.items()}
            if _all_finite(losses, *means.values()):
                return MetaGrad(means, losses, scores, torch.ones_like(losses, dtype=torch.bool))
        usable = torch.stack([losses, *(g.reshape(len(g), -1).sum(1) for g in grads.values())]).isfinite().all(0)
        return MetaGrad({name: _mean(g, usable) for name, g in grads.items()}, losses, scores, usable)

    if how == "trace":
        return traced(all_at_once, adaptation)
    return compiled(all_at_once) if how else all_at_once


def _all_finite(*tensors: Tensor) -> bool:
    return bool(torch.stack(torch._foreach_norm(list(tensors))).isfinite().all())


def _mean(grads: Float[Tensor, " episodes *p"], finite: Bool[Tensor, " episodes"]) -> Float[Tensor, "*p"]:
    lanes = finite.view(-1, *[1] * (grads.ndim - 1))
    return torch.where(lanes, grads, 0.0).sum(0) / finite.sum().clamp(min=1)


def takes_stacked(batching: str, adaptation: Adaptation, steps: int | None = None) -> bool:
    """Whether stacked episodes go through in one pass, as one batch: where no steps are made and the learner can.

    Arguments:
        steps: in place of the adaptation's own.
    """
    return batching == "auto" and (adaptation.steps if steps is None else steps) == 0 and adaptation.learner.stacks


def lanes_of(batching: str, adaptation: Adaptation, episodes: Episode, num: int) -> int:
    """How many episodes at once; 0 to take them one by one."""
    kind, _, number = batching.partition(":")
    if kind == "chunk" and number.isdecimal() and int(number) > 0:
        return int(number)
    if batching == "auto":
        slower = _convolves(adaptation) and not _on_accelerator(episodes)
        return 0 if adaptation.recompute or slower or not adaptation.learner.vmaps else num
    if batching not in ("loop", "vmap"):
        raise ValueError(
            "batching must be auto, loop, vmap, or chunk:n with a positive n, the known ways through many episodes; "
            f"got {batching!r}."
        )
    return num if batching == "vmap" else 0


def _convolves(module: nn.Module) -> bool:
    return any(isinstance(m, nn.modules.conv._ConvNd) for m in module.modules())


def _on_accelerator(episodes: Episode) -> bool:
    return tree_leaves(episodes)[0].device.type != "cpu"


def _chunks(episodes: Any, num: int, size: int) -> Iterator[Any]:
    if size >= num:
        yield episodes
        return
    for start in range(0, num, size):
        yield tree_map(lambda x, start=start: x[start : start + size], episodes)

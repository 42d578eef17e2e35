"""Gradients by the implicit function theorem, where the fast variables minimise the inner loss.

At a minimum the gradient F(fast, slow) of the inner loss is zero, so d fast / d slow = -(dF/dfast)^-1 dF/dslow: what
comes from later is multiplied by the inverse Hessian, which takes products with the Hessian only, and then by dF/dslow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vjp
from torch.utils import _pytree

from l2o.learners.base import Fast, Learner
from l2o.tasks.episodes import Examples
from l2o.types import tree_detach


def implicit(learner: Learner, fast: Fast, support: Examples, num_iterations: int) -> Fast:
    """`fast` as it is, with the implicit gradient to the learner's parameters (none to a rule's) behind it."""
    slow = dict(learner.named_parameters())
    leaves, spec = _pytree.tree_flatten((tree_detach(fast), slow, support))
    out = _Implicit.apply(learner, spec, num_iterations, *leaves)
    return dict(zip(fast, out, strict=True))


class _Implicit(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(learner: Learner, spec: _pytree.TreeSpec, num_iterations: int, *leaves: Tensor) -> tuple[Tensor, ...]:
        fast, _, _ = _pytree.tree_unflatten(leaves, spec)
        return tuple(value.clone() for value in fast.values())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.learner, ctx.spec, ctx.num_iterations, *leaves = inputs
        ctx.save_for_backward(*leaves)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        fast, slow, support = _pytree.tree_unflatten(list(ctx.saved_tensors), ctx.spec)

        def slope(fast: Fast, slow: dict[str, Tensor]) -> Fast:
            return grad(lambda fast: functional_call(ctx.learner, slow, (fast, support)))(fast)

        product = vjp(lambda fast: slope(fast, slow), fast)[1]  # the Hessian is symmetric

        def hessian_times(v: Fast) -> Fast:
            return product(v)[0]

        solution = conjugate_gradients(hessian_times, dict(zip(fast, upstream, strict=True)), ctx.num_iterations)
        back = vjp(lambda slow: slope(fast, slow), slow)[1]
        (to_slow,) = back({name: -value for name, value in solution.items()})
        num_support = len(_pytree.tree_leaves(support))
        return (None, None, None, *[None] * len(fast), *to_slow.values(), *[None] * num_support)


def conjugate_gradients(product: Any, target: Fast, num_iterations: int) -> Fast:
    """An approximate solution x of `product(x) = target` for a symmetric positive product (Hestenes and Stiefel, 1952).

    Iterations after the residual has vanished change nothing.
    """
    x = {name: torch.zeros_like(value) for name, value in target.items()}
    residual, direction = target, target
    size = _dot(residual, residual)
    for _ in range(num_iterations):
        image = product(direction)
        curvature = _dot(direction, image)
        length = torch.where(curvature > 0, size / torch.where(curvature > 0, curvature, 1.0), 0.0)
        x = {name: value + length * direction[name] for name, value in x.items()}
        residual = {name: value - length * image[name] for name, value in residual.items()}
        next_size = _dot(residual, residual)
        ratio = torch.where(size > 0, next_size / torch.where(size > 0, size, 1.0), 0.0)
        direction = {name: value + ratio * direction[name] for name, value in residual.items()}
        size = next_size
    return x


def _dot(a: Fast, b: Fast) -> Tensor:
    return torch.stack([(value * b[name]).sum() for name, value in a.items()]).sum()

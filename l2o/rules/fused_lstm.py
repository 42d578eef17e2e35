"""The fast form of `l2o.rules.lstm_reference`: one torch operation on all tensors of a network, run by a C++ kernel.

Its derivative is a second operation. Derivatives of that one are those of the readable form. Both take the tensors as
they are or, with `lanes`, under one leading axis, which is how `vmap` calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp, vmap

from l2o.kernels import lstm as kernel
from l2o.kernels.lstm import Form, Given, Theta
from l2o.kernels.transforms import batched
from l2o.rules import lstm_reference

# one list, not six: torch looks at every list many times on its way to the kernel
_ARGUMENTS = "Tensor[] tensors, int lanes, int[] shape, float[] numbers"
_library = torch.library.Library("l2o", "FRAGMENT")
_library.define(f"lstm({_ARGUMENTS}) -> Tensor[]")
_library.define(f"lstm_backward(Tensor[] upstream, {_ARGUMENTS}) -> Tensor[]")


def step(given: Given, theta: Theta, form: Form) -> tuple[list[Tensor], list[Tensor]]:
    """The step of every tensor, zero where its gradient is, and the next states."""
    num = len(given.grads)
    tensors = [*given.grads, *given.features, *given.hidden, *(x.float() for x in _flat(theta))]
    shape = [num, len(theta.weights), bool(given.features), form.squash]
    found = torch.ops.l2o.lstm(tensors, 0, shape, [form.scale, form.p])
    return found[:num], found[num:]


def _flat(theta: Theta) -> list[Tensor]:
    return [*theta.weights, *theta.biases, theta.output]


def _parts(tensors: Sequence[Tensor], shape: Sequence[int]) -> tuple[Given, Theta]:
    """What stands in the one list."""
    num, layers, has_features, *_ = shape
    given = 3 * num if has_features else 2 * num
    features = tensors[num : given - num]
    weights, biases = tensors[given : given + layers], tensors[given + layers : -1]
    return Given(tensors[:num], features, tensors[given - num : given]), Theta(weights, biases, tensors[-1])


def _in_order(tensors: Sequence[Tensor], lanes: int, shape: Sequence[int]) -> tuple[Given, Theta]:
    """The same, each as the kernel takes it."""
    given, theta = _parts(tensors, shape)
    grads, features, hidden = ([x.contiguous() for x in part] for part in given)
    weights, biases = ([_by_lane(x, lanes) for x in part] for part in theta[:2])
    return Given(grads, features, hidden), Theta(weights, biases, _by_lane(theta.output, lanes))


def _by_lane(x: Tensor, lanes: int) -> Tensor:
    """Contiguous within every lane; of what lanes share there stays one."""
    if lanes and x.stride(0) == 0:
        return x[0].contiguous().expand(x.shape)
    return x.contiguous()


def _lstm_cpu(tensors: list[Tensor], lanes: int, shape: list[int], numbers: list[float]) -> list[Tensor]:
    steps, hidden = kernel.step(*_in_order(tensors, lanes, shape), Form(bool(shape[3]), *numbers), lanes)
    return steps + hidden


def _backward_cpu(
    upstream: list[Tensor], tensors: list[Tensor], lanes: int, shape: list[int], numbers: list[float]
) -> list[Tensor]:
    num, _, _, squash, wants_input, *present = shape
    come = iter(upstream)
    derivatives = [next(come).contiguous() if has else None for has in present]
    inner = (*_in_order(tensors, lanes, shape), Form(bool(squash), *numbers), lanes, bool(wants_input))
    inputs, hidden, theta = kernel.back(derivatives[:num], derivatives[num:], *inner)
    return [*inputs, *hidden, *_flat(theta)]


def _lstm_shapes(tensors: list[Tensor], lanes: int, shape: list[int], numbers: list[float]) -> list[Tensor]:
    given, _ = _parts(tensors, shape)
    return [_dense(x) for x in (*given.grads, *given.hidden)]


def _backward_shapes(
    upstream: list[Tensor], tensors: list[Tensor], lanes: int, shape: list[int], numbers: list[float]
) -> list[Tensor]:
    given, theta = _parts(tensors, shape)
    inputs = (given.features or given.grads) if shape[4] else []
    return [_dense(x) for x in (*inputs, *given.hidden, *_flat(theta))]


def _dense(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensors, *ctx.rest = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _back(ctx: Any, upstream: Sequence[Tensor | None]) -> Any:
    lanes, shape, numbers = ctx.rest
    num, _, has_features, _ = shape
    of_inputs = slice(num, 2 * num) if has_features else slice(num)
    wants_input = any(ctx.needs_input_grad[0][of_inputs])
    shape = [*shape, wants_input, *(g is not None for g in upstream)]
    come = [g for g in upstream if g is not None]
    found = torch.ops.l2o.lstm_backward(come, list(ctx.saved_tensors), lanes, shape, numbers)
    before = [None] * ((num if has_features else 0) + (0 if wants_input else num))
    return [*before, *found], None, None, None


def _keep_both(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    upstream, tensors, *ctx.rest = inputs
    ctx.num = len(upstream)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*upstream, *tensors)


def _back_twice(ctx: Any, upstream: Sequence[Tensor | None]) -> Any:
    lanes, shape, numbers = ctx.rest
    reached = [g is not None for g in upstream]

    def pulled(leaves: list[Tensor], come: list[Tensor]) -> tuple[Tensor, ...]:
        def run(*leaves: Tensor) -> list[Tensor]:
            found = _readable_backward(leaves[: ctx.num], leaves[ctx.num :], shape, numbers)
            return [x for x, counts in zip(found, reached, strict=True) if counts]

        return vjp(run, *leaves)[1](come)

    arguments = (list(ctx.saved_tensors), [g for g in upstream if g is not None])
    found = list(vmap(pulled)(*arguments) if lanes else pulled(*arguments))
    return found[: ctx.num], found[ctx.num :], None, None, None


def _readable_backward(
    upstream: Sequence[Tensor], tensors: Sequence[Tensor], shape: Sequence[int], numbers: Sequence[float]
) -> list[Tensor]:
    _, num_layers, has_features, squash, wants_input, *present = shape
    given, theta = _parts(tensors, shape)

    def run(inputs: Sequence[Tensor], hidden: Sequence[Tensor], *flat: Tensor) -> list[Tensor]:
        read = Given(given.grads, inputs, hidden) if has_features else Given(inputs, [], hidden)
        made = Theta(flat[:num_layers], flat[num_layers:-1], flat[-1])
        steps, after = lstm_reference.step(read, made, Form(bool(squash), *numbers))
        return [x for x, counts in zip(steps + after, present, strict=True) if counts]

    pull = vjp(run, given.features or given.grads, given.hidden, *_flat(theta))[1]
    inputs, hidden, *of_theta = pull(list(upstream))
    return [*(inputs if wants_input else []), *hidden, *of_theta]


_ops: tuple[tuple[str, Any, Any, Callable[..., Any], Callable[..., Any]], ...] = (
    ("lstm", _lstm_cpu, _lstm_shapes, _back, _keep),
    ("lstm_backward", _backward_cpu, _backward_shapes, _back_twice, _keep_both),
)
for _op, _cpu, _shapes, _formula, _context in _ops:
    _library.impl(_op, _cpu, "CPU")
    torch.library.register_fake(f"l2o::{_op}", _shapes)
    torch.library.register_autograd(f"l2o::{_op}", _formula, setup_context=_context)
    torch.library.register_vmap(f"l2o::{_op}", batched(getattr(torch.ops.l2o, _op)))

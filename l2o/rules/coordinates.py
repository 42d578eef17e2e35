"""What learned rules do with all coordinates of a network: remember their gradients, respond with a step.

Two verbs, each with a readable form (`l2o.rules.reference`) and a fast one (`l2o.rules.fused`). Which one is taken
depends on the tensors and the machine, never on the numbers.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from l2o.kernels import build
from l2o.kernels.coordinate_mlp import Network, available
from l2o.rules import fused, reference
from l2o.rules.base import working
from l2o.types import Params

Slots = dict[str, dict[str, Tensor]]


def remember(
    params: Params, grads: Params, slots: Slots, rates: Float[Tensor, " r"], network: Network
) -> tuple[Slots, Float[Tensor, "tensors k"] | None]:
    """The averages of every tensor after one more gradient.

    Returns:
        the slots, and the moments of all tensors (see `reference.moments`) where the fast form has made them.
    """
    names = [name for name, p in params.items() if p.numel()]
    if not _fast(params, names, slots, network):
        new = {name: reference.remember(_as(grads, params, name), slots[name], rates, network.max_gradient) for name in names}
        return {**slots, **new}, None
    made, moments = fused.remember(*_lists(params, grads, slots, names), rates, network)
    return {**slots, **dict(zip(names, made, strict=True))}, moments


def respond(
    params: Params,
    grads: Params,
    slots: Slots,
    moments: Float[Tensor, "tensors k"] | None,
    layers: Float[Tensor, " *tensors w"],
    network: Network,
    sizes: Float[Tensor, " tensors"] | None = None,
) -> Params:
    """The step of every tensor, in its precision; an empty tensor's is empty.

    Arguments:
        slots, moments: as `remember` left them.
        layers: the network's weights and biases in a row; a row for each tensor that is not empty, or one for all.
        sizes: a factor of each such tensor's step.
    """
    names = [name for name, p in params.items() if p.numel()]
    if moments is None:
        each = layers if layers.ndim == 2 else [layers] * len(names)
        factors = [None] * len(names) if sizes is None else sizes
        steps = [
            reference.respond(working(params[name]), _as(grads, params, name), slots[name], flat, size, network)
            for name, flat, size in zip(names, each, factors, strict=True)
        ]
    else:
        steps = fused.respond(*_lists(params, grads, slots, names), moments, layers, sizes, network)
    made = dict(zip(names, steps, strict=True))
    return {name: made[name].to(p.dtype) if name in made else torch.zeros_like(p) for name, p in params.items()}


def _fast(params: Params, names: list[str], slots: Slots, network: Network) -> bool:
    """Whether the fast form is to be taken: float32 numbers on the CPU, and a kernel that is built."""
    if not names or not build.wanted():
        return False
    fits = all(
        params[name].device.type == "cpu"
        and working(params[name]).dtype == torch.float32
        and slots[name]["momenta"].dtype == torch.float32
        for name in names
    )
    return fits and available(network.hidden, network.num_layers)


def _lists(
    params: Params, grads: Params, slots: Slots, names: list[str]
) -> tuple[list[Tensor], list[Tensor], list[dict[str, Tensor]]]:
    return (
        [working(params[name]) for name in names],
        [_as(grads, params, name) for name in names],
        [slots[name] for name in names],
    )


def _as(grads: Params, params: Params, name: str) -> Tensor:
    """A gradient in the precision that its parameter is worked with."""
    return grads[name].to(working(params[name]).dtype)

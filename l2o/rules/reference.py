"""The readable form of what learned rules do with each coordinate: remember its gradients, respond to them.

`l2o.rules.coordinates` takes these lines, or faster ones that compute the same.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from l2o.kernels.coordinate_mlp import Network
from l2o.rules.features import (
    NUM_EXTENDED_FEATURES,
    NUM_FEATURES,
    has_moved,
    rms_scale,
    split_rates,
    stack_features,
    update_averages,
)
from l2o.rules.network import apply_layers, columns, split_layers

Slot = dict[str, Tensor]

PARAMETER_FEATURE = 1
"""Place among the features of the parameter itself."""

ADAM_FEATURE = 6
"""Place among the features of the fastest momentum over the root of the second moment."""


def layer_shapes(network: Network) -> list[tuple[int, int]]:
    """(outputs, inputs) of every layer."""
    num_features = NUM_EXTENDED_FEATURES if network.extended else NUM_FEATURES
    sizes = [num_features, *[network.hidden] * network.num_layers, network.num_outputs]
    return [(n_out, n_in) for n_in, n_out in pairwise(sizes)]


def remember(grad: Float[Tensor, "*p"], slot: Slot, rates: Float[Tensor, " r"], network: Network) -> Slot:
    """The averages of a tensor after one more gradient."""
    grad = grad.clamp(-network.max_gradient, network.max_gradient)
    return update_averages(slot, grad, *split_rates(rates), eps_square=network.eps_square)


def moments(p: Float[Tensor, "*p"], grad: Float[Tensor, "*p"], slot: Slot, network: Network) -> Float[Tensor, " k"]:
    """Mean squares of the 30 features, means of the momenta and of the second moment, share of `has_moved`."""
    bounded = grad.clamp(-network.max_gradient, network.max_gradient)
    features = columns(stack_features(p, bounded, slot, network.eps_second, True, network.eps_diagonal))
    means = columns(torch.cat([slot["momenta"], slot["second"]])).mean(dim=1)
    return torch.cat([features.square().mean(dim=1), means, has_moved(slot).to(p.dtype).mean().view(1)])


def respond(
    p: Float[Tensor, "*p"],
    grad: Float[Tensor, "*p"],
    slot: Slot,
    flat: Float[Tensor, " w"],
    size: Float[Tensor, ""] | None,
    network: Network,
) -> Float[Tensor, "*p"]:
    """The step of a tensor whose averages have seen this gradient.

    Arguments:
        flat: the network's weights and biases in a row.
        size: a factor of the step.
    """
    grad = grad.clamp(-network.max_gradient, network.max_gradient)
    features = stack_features(p, grad, slot, network.eps_second, network.extended, network.eps_diagonal)
    scale = rms_scale(features, network.eps)
    layers = split_layers(flat.to(p.dtype), layer_shapes(network))
    layers[0] = (layers[0][0] * scale, layers[0][1])  # no feature is written a second time
    outputs = apply_layers(layers, columns(features)).view(-1, *p.shape)
    step = outputs[0]
    if network.num_outputs == 2:
        step = step * torch.exp(network.magnitude_scale * outputs[1])
    if network.residual:
        step = step + features[ADAM_FEATURE] * scale[ADAM_FEATURE]
    moved = has_moved(slot) if network.masked else torch.ones_like(step, dtype=torch.bool)
    step = torch.where(moved, step, 0.0)
    if network.normalize:
        step = step * torch.rsqrt(step.square().sum() / moved.sum().clamp(min=1) + 1e-9)
    return network.size * step if size is None else network.size * size * step

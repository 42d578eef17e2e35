"""The readable form of the LSTM rule: what a coordinate's LSTM reads, how it goes on, what it writes.

`l2o.rules.lstm` takes these lines, or faster ones (`l2o.rules.fused_lstm`) that compute the same.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from l2o.kernels.lstm import Form, Given, Theta


def step(given: Given, theta: Theta, form: Form) -> tuple[list[Tensor], list[Tensor]]:
    """The step of every tensor, zero where its gradient is, and the next states."""
    sizes = [grad.numel() for grad in given.grads]
    grad = torch.cat([grad.reshape(size) for grad, size in zip(given.grads, sizes, strict=True)])
    read = [x.reshape(2, -1) for x in given.features]
    z = torch.cat(read, dim=1) if read else log_gradient(grad, form.p)
    layers = (2 * len(theta.weights), theta.output.shape[0])
    hidden = [h.reshape(*layers, size) for h, size in zip(given.hidden, sizes, strict=True)]
    move, after = network(z, torch.cat(hidden, dim=2), theta)
    move = form.scale * (torch.tanh(move) if form.squash else move)
    move = torch.where(grad != 0, move, 0.0)
    steps = [x.view(grad.shape) for x, grad in zip(move.split(sizes), given.grads, strict=True)]
    parts = zip(after.split(sizes, dim=2), given.hidden, strict=True)
    return steps, [x.reshape(h.shape) for x, h in parts]


def network(
    z: Float[Tensor, "i n"], hidden: Float[Tensor, "l2 h n"], theta: Theta
) -> tuple[Float[Tensor, " n"], Float[Tensor, "l2 h n"]]:
    """All layers for one step; hidden holds (h, c) of each layer."""
    states = []
    for layer, (weight, bias) in enumerate(zip(theta.weights, theta.biases, strict=True)):
        z, c = lstm_cell(z, hidden[2 * layer], hidden[2 * layer + 1], weight, bias)
        states += [z, c]
    return theta.output.to(z.dtype) @ z, torch.stack(states)


def lstm_cell(
    x: Float[Tensor, "i n"],
    h: Float[Tensor, "h n"],
    c: Float[Tensor, "h n"],
    weight: Float[Tensor, "4*h i+h"],
    bias: Float[Tensor, " 4*h"],
) -> tuple[Float[Tensor, "h n"], Float[Tensor, "h n"]]:
    """The next (h, c) of an LSTM layer for n inputs side by side, twice as fast as with features last.

    Plain operations: nn.LSTMCell cannot be vmapped.
    """
    gates = torch.addmm(bias.to(x.dtype).unsqueeze(1), weight.to(x.dtype), torch.cat([x, h]))
    return pass_gates(gates, c, dim=0)


def pass_gates(gates: Tensor, c: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The next (h, c) of an LSTM whose gates (input, forget, cell, output) stand one after the other along `dim`."""
    i, f, g, o = gates.chunk(4, dim)
    # forget bias 1, so that the memory lives from the start (Jozefowicz et al., 2015)
    c = torch.sigmoid(f + 1.0) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def log_gradient(grad: Float[Tensor, "*p"], p: float = 10.0) -> Float[Tensor, " 2 *p"]:
    """(log |g| / p, sign g) where |g| >= e^-p, else (-1, e^p g): appendix A of the paper."""
    # clamped inside the logarithm: its derivative at 0 would be infinite
    log = torch.log(grad.abs().clamp(min=math.exp(-p))) / p
    return torch.stack([log, (grad * math.exp(p)).clamp(-1.0, 1.0)])

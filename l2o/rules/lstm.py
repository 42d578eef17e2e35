"""The coordinatewise LSTM optimizer (Andrychowicz et al., 2016, https://arxiv.org/abs/1606.04474)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from l2o.rules.base import OptState, UpdateRule, check, working, zero_count, zero_step
from l2o.rules.features import bound
from l2o.types import Params


class LSTMRule(UpdateRule):
    """One small LSTM, shared by every coordinate, reads its gradient and writes its step.

    The step of a coordinate is `output_scale * w . h`, h the top LSTM's output. A coordinate whose gradient is exactly
    zero does not move: embedding rows that a batch does not touch stay where they are.

    Arguments:
        hidden_size, num_layers: 20 and 2 in the paper.
        inputs: `log_gradient` is the paper's (log |g| / p, sign g), appendix A; `rnnprop` is (m / sqrt v, g / sqrt v)
            with the output through a tanh (Lv et al., 2017, https://arxiv.org/abs/1703.03633), which makes the rule
            independent of the gradient's scale.
        p: exponent range of the log-gradient preprocessing, 10 in the paper.
        output_scale: size of a step; small, so an untrained rule is harmless.
    """

    def __init__(
        self,
        hidden_size: int = 20,
        num_layers: int = 2,
        inputs: Literal["log_gradient", "rnnprop"] = "log_gradient",
        p: float = 10.0,
        output_scale: float = 0.1,
    ) -> None:
        super().__init__()
        known = inputs in ("log_gradient", "rnnprop")
        check(known, "inputs must be 'log_gradient' or 'rnnprop', the two known encodings of a gradient", inputs=inputs)
        check(hidden_size >= 1 and num_layers >= 1, "an LSTM needs a unit", size=hidden_size, layers=num_layers)
        check(p > 0.0, "p must be > 0, the exponent range of the gradients told apart", p=p)
        self.hidden_size, self.num_layers, self.inputs, self.p = hidden_size, num_layers, inputs, p
        self.output_scale = output_scale
        self.nominal_lr = 1e-3
        sizes = [2] + [hidden_size] * num_layers
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(4 * hidden_size, size + hidden_size) / math.sqrt(size + hidden_size))
            for size in sizes[:-1]
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(4 * hidden_size)) for _ in range(num_layers))
        self.output = nn.Parameter(torch.randn(hidden_size) * 0.01 / math.sqrt(hidden_size))

    def init(self, params: Params, total_steps: int | Tensor | None = None) -> OptState:
        slots = {}
        for name, p in params.items():
            zeros = torch.zeros_like(working(p))
            slots[name] = {"hidden": zeros.new_zeros(2 * self.num_layers, self.hidden_size, *p.shape)}
            if self.inputs == "rnnprop":
                slots[name] |= {"m": zeros, "v": zeros, "count": zero_count(p)}
        return OptState(zero_step(params), slots, {})

    def forward(
        self, grads: Params, state: OptState, params: Params, loss: Float[Tensor, ""] | None = None
    ) -> tuple[Params, OptState]:
        names = list(params)
        sizes = [params[name].numel() for name in names]
        grad = torch.cat([working(grads[name]).reshape(size) for name, size in zip(names, sizes, strict=True)])
        slots = [state.slots[name] for name in names]
        if self.inputs == "log_gradient":
            z = log_gradient(grad, self.p)
        else:
            read = [_rnnprop(working(grads[name]), slot) for name, slot in zip(names, slots, strict=True)]
            z = torch.cat([features.reshape(2, -1) for features, _ in read], dim=1)
            slots = [slot for _, slot in read]
        layers = (2 * self.num_layers, self.hidden_size)
        hidden = [slot["hidden"].reshape(*layers, size) for slot, size in zip(slots, sizes, strict=True)]
        step, new_hidden = self._lstm(z, torch.cat(hidden, dim=2))
        step = torch.where(grad != 0, step, 0.0)
        updates, new_slots = {}, {}
        for name, slot, u, h in zip(names, slots, step.split(sizes), new_hidden.split(sizes, dim=2), strict=True):
            p = params[name]
            updates[name] = u.view(p.shape).to(p.dtype)
            new_slots[name] = slot | {"hidden": h.reshape(*layers, *p.shape).to(slot["hidden"].dtype)}
        return updates, OptState(state.step + 1, new_slots, state.shared)

    def _lstm(
        self, z: Float[Tensor, "i n"], hidden: Float[Tensor, "l2 h n"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "l2 h n"]]:
        """All layers for one step; hidden holds (h, c) of each layer."""
        states = []
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            z, c = lstm_cell(z, hidden[2 * layer], hidden[2 * layer + 1], weight, bias)
            states += [z, c]
        step = self.output.to(z.dtype) @ z
        step = torch.tanh(step) if self.inputs == "rnnprop" else step
        return self.output_scale * step, torch.stack(states)


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
    i, f, g, o = gates.chunk(4)
    # forget bias 1, so that the memory lives from the start (Jozefowicz et al., 2015)
    c = torch.sigmoid(f + 1.0) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def log_gradient(grad: Float[Tensor, "*p"], p: float = 10.0) -> Float[Tensor, " 2 *p"]:
    """(log |g| / p, sign g) where |g| >= e^-p, else (-1, e^p g): appendix A of the paper."""
    # clamped inside the logarithm: its derivative at 0 would be infinite
    log = torch.log(grad.abs().clamp(min=math.exp(-p))) / p
    return torch.stack([log, (grad * math.exp(p)).clamp(-1.0, 1.0)])


def _rnnprop(grad: Float[Tensor, "*p"], slot: dict[str, Tensor]) -> tuple[Float[Tensor, " 2 *p"], dict[str, Tensor]]:
    """(m / sqrt v, g / sqrt v) with bias-corrected averages, and the slot with these averages."""
    beta = 0.95  # of both averages: Lv et al., section 4
    grad = bound(grad)
    count = slot["count"] + 1
    m = torch.lerp(grad, slot["m"], beta)
    v = torch.lerp(grad.square(), slot["v"], beta)
    correction = 1.0 - beta**count
    # not below: the derivatives of rsqrt at 0 are infinite
    scale = torch.rsqrt((v / correction).clamp(min=1e-14))
    features = torch.stack([m / correction * scale, grad * scale])
    return features, slot | {"m": m, "v": v, "count": count}

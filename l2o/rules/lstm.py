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
            nn.Parameter(torch.randn(size + hidden_size, 4 * hidden_size) / math.sqrt(size + hidden_size))
            for size in sizes[:-1]
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(4 * hidden_size)) for _ in range(num_layers))
        self.output = nn.Parameter(torch.randn(hidden_size) * 0.01 / math.sqrt(hidden_size))

    def init(self, params: Params, total_steps: int | Tensor | None = None) -> OptState:
        slots = {}
        for name, p in params.items():
            zeros = torch.zeros_like(working(p))
            slots[name] = {"hidden": zeros.new_zeros(2 * self.num_layers, *p.shape, self.hidden_size)}
            if self.inputs == "rnnprop":
                slots[name] |= {"m": zeros, "v": zeros, "count": zero_count(p)}
        return OptState(zero_step(params), slots, {})

    def forward(
        self, grads: Params, state: OptState, params: Params, loss: Float[Tensor, ""] | None = None
    ) -> tuple[Params, OptState]:
        names = list(params)
        features, slots = zip(*(self._features(working(grads[name]), state.slots[name]) for name in names), strict=True)
        z = torch.cat([f.reshape(-1, 2) for f in features])
        hidden = torch.cat([slot["hidden"].reshape(2 * self.num_layers, -1, self.hidden_size) for slot in slots], dim=1)
        out, hidden = self._lstm(z, hidden)
        updates, new_slots = {}, {}
        sizes = [params[name].numel() for name in names]
        columns = zip(names, slots, out.split(sizes), hidden.split(sizes, dim=1), strict=True)
        for name, slot, step, h in columns:
            p = params[name]
            updates[name] = torch.where(grads[name] != 0, step.view(p.shape), 0.0).to(p.dtype)
            h = h.reshape(2 * self.num_layers, *p.shape, self.hidden_size)
            new_slots[name] = slot | {"hidden": h.to(slot["hidden"].dtype)}
        return updates, OptState(state.step + 1, new_slots, state.shared)

    def _lstm(
        self, z: Float[Tensor, "n i"], hidden: Float[Tensor, "l2 n h"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "l2 n h"]]:
        """All layers for one step; hidden holds (h, c) of each layer."""
        states = []
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            z, c = lstm_cell(z, hidden[2 * layer], hidden[2 * layer + 1], weight, bias)
            states += [z, c]
        step = z @ self.output.to(z.dtype)
        step = torch.tanh(step) if self.inputs == "rnnprop" else step
        return self.output_scale * step, torch.stack(states)

    def _features(
        self, grad: Float[Tensor, "*p"], slot: dict[str, Tensor]
    ) -> tuple[Float[Tensor, "*p 2"], dict[str, Tensor]]:
        if self.inputs == "log_gradient":
            return log_gradient(grad, self.p), slot
        beta = 0.95  # of both averages: Lv et al., section 4
        grad = bound(grad)
        count = slot["count"] + 1
        m = torch.lerp(grad, slot["m"], beta)
        v = torch.lerp(grad.square(), slot["v"], beta)
        correction = 1.0 - beta**count
        # not below: the derivatives of rsqrt at 0 are infinite
        scale = torch.rsqrt((v / correction).clamp(min=1e-14))
        features = torch.stack([m / correction * scale, grad * scale], dim=-1)
        return features, slot | {"m": m, "v": v, "count": count}


def lstm_cell(
    x: Float[Tensor, "n i"],
    h: Float[Tensor, "n h"],
    c: Float[Tensor, "n h"],
    weight: Float[Tensor, "i+h 4*h"],
    bias: Float[Tensor, " 4*h"],
) -> tuple[Float[Tensor, "n h"], Float[Tensor, "n h"]]:
    """The next (h, c) of an LSTM layer, in plain operations: nn.LSTMCell cannot be vmapped."""
    i, f, g, o = (torch.cat([x, h], dim=-1) @ weight.to(x.dtype) + bias.to(x.dtype)).chunk(4, dim=-1)
    # forget bias 1, so that the memory lives from the start (Jozefowicz et al., 2015)
    c = torch.sigmoid(f + 1.0) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def log_gradient(grad: Float[Tensor, "*p"], p: float = 10.0) -> Float[Tensor, "*p 2"]:
    """(log |g| / p, sign g) where |g| >= e^-p, else (-1, e^p g): appendix A of the paper."""
    # clamped inside the logarithm: its derivative at 0 would be infinite
    log = torch.log(grad.abs().clamp(min=math.exp(-p))) / p
    return torch.stack([log, (grad * math.exp(p)).clamp(-1.0, 1.0)], dim=-1)

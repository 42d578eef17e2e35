"""The coordinatewise LSTM optimizer (Andrychowicz et al., 2016, https://arxiv.org/abs/1606.04474)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from l2o.rules.base import OptState, UpdateRule, zero_step
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
        if inputs not in ("log_gradient", "rnnprop"):
            raise ValueError(
                f"inputs must be 'log_gradient' or 'rnnprop', the two known encodings of a gradient; got {inputs!r}."
            )
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
            slots[name] = {"hidden": p.new_zeros(2 * self.num_layers, *p.shape, self.hidden_size)}
            if self.inputs == "rnnprop":
                slots[name] |= {"m": torch.zeros_like(p), "v": torch.zeros_like(p), "count": p.new_zeros(())}
        return OptState(zero_step(params), slots, {})

    def forward(
        self, grads: Params, state: OptState, params: Params, loss: Float[Tensor, ""] | None = None
    ) -> tuple[Params, OptState]:
        names = list(params)
        features, slots = zip(*(self._features(grads[name], state.slots[name]) for name in names), strict=True)
        z = torch.cat([f.reshape(-1, 2) for f in features])
        hidden = torch.cat([slot["hidden"].reshape(2 * self.num_layers, -1, self.hidden_size) for slot in slots], dim=1)
        out, hidden = self._lstm(z, hidden)
        updates, new_slots = {}, {}
        sizes = [params[name].numel() for name in names]
        columns = zip(names, slots, out.split(sizes), hidden.split(sizes, dim=1), strict=True)
        for name, slot, step, h in columns:
            p = params[name]
            updates[name] = torch.where(grads[name] != 0, step.view(p.shape), 0.0)
            new_slots[name] = slot | {"hidden": h.reshape(2 * self.num_layers, *p.shape, self.hidden_size)}
        return updates, OptState(state.step + 1, new_slots, state.shared)

    def _lstm(
        self, z: Float[Tensor, "n i"], hidden: Float[Tensor, "l2 n h"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "l2 n h"]]:
        """All layers for one step; hidden holds (h, c) of each layer. Plain operations: nn.LSTMCell cannot be vmapped."""
        states = []
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h, c = hidden[2 * layer], hidden[2 * layer + 1]
            gates = torch.cat([z, h], dim=-1) @ weight + bias
            # forget bias 1, so that the memory lives from the start (Jozefowicz et al., 2015)
            i, f, g, o = gates.chunk(4, dim=-1)
            c = torch.sigmoid(f + 1.0) * c + torch.sigmoid(i) * torch.tanh(g)
            z = torch.sigmoid(o) * torch.tanh(c)
            states += [z, c]
        step = z @ self.output
        step = torch.tanh(step) if self.inputs == "rnnprop" else step
        return self.output_scale * step, torch.stack(states)

    def _features(
        self, grad: Float[Tensor, "*p"], slot: dict[str, Tensor]
    ) -> tuple[Float[Tensor, "*p 2"], dict[str, Tensor]]:
        if self.inputs == "log_gradient":
            return log_gradient(grad, self.p), slot
        beta1, beta2 = 0.95, 0.95  # Lv et al., section 4
        count = slot["count"] + 1
        m = torch.lerp(grad, slot["m"], beta1)
        v = torch.lerp(grad.square(), slot["v"], beta2)
        scale = torch.rsqrt(v / (1 - beta2**count) + 1e-16)
        features = torch.stack([m / (1 - beta1**count) * scale, grad * scale], dim=-1)
        return features, slot | {"m": m, "v": v, "count": count}


def log_gradient(grad: Float[Tensor, "*p"], p: float = 10.0) -> Float[Tensor, "*p 2"]:
    """(log |g| / p, sign g) where |g| >= e^-p, else (-1, e^p g): appendix A of the paper."""
    # clamped inside the logarithm: its derivative at 0 would be infinite
    log = torch.log(grad.abs().clamp(min=math.exp(-p))) / p
    return torch.stack([log, (grad * math.exp(p)).clamp(-1.0, 1.0)], dim=-1)

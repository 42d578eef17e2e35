"""The coordinatewise LSTM optimizer (Andrychowicz et al., 2016, https://arxiv.org/abs/1606.04474)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from l2o.kernels import build
from l2o.kernels.lstm import Form, Given, Theta, available
from l2o.kernels.transforms import inside_grad
from l2o.rules import fused_lstm, lstm_reference
from l2o.rules.base import OptState, UpdateRule, check, working, zero_count, zero_step
from l2o.rules.features import bound
from l2o.rules.lstm_reference import log_gradient, lstm_cell
from l2o.types import Params

__all__ = ["LSTMRule", "log_gradient", "lstm_cell"]


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
        output_scale: factor of the output: 0.1 of a step, so that an untrained rule is harmless, 1 of the log of
            a rate.
        base_lr: None, or a rate: the LSTM then writes no step but the logarithm of each coordinate's rate, around a
            learned one that starts here, and the step is -rate * g (per-coordinate rates from the history, as in
            Wichrowska et al., 2017, https://arxiv.org/abs/1703.04813). An untrained rule is nearly SGD. What the LSTM
            reads is a constant (Andrychowicz et al., section 2.1), so that `order="full"` takes derivatives of the
            gradients only where they are multiplied by the rate.
    """

    large_slots = ("hidden", "m", "v")

    def __init__(
        self,
        hidden_size: int = 20,
        num_layers: int = 2,
        inputs: Literal["log_gradient", "rnnprop"] = "log_gradient",
        p: float = 10.0,
        output_scale: float | None = None,
        base_lr: float | None = None,
    ) -> None:
        super().__init__()
        known = inputs in ("log_gradient", "rnnprop")
        check(known, "inputs must be 'log_gradient' or 'rnnprop', the two known encodings of a gradient", inputs=inputs)
        check(hidden_size >= 1 and num_layers >= 1, "an LSTM needs a unit", size=hidden_size, layers=num_layers)
        check(p > 0.0, "p must be > 0, the exponent range of the gradients told apart", p=p)
        self.hidden_size, self.num_layers, self.inputs, self.p = hidden_size, num_layers, inputs, p
        check(
            base_lr is None or 0.0 < base_lr < math.inf,
            "base_lr must be > 0, for its logarithm is learned",
            base_lr=base_lr,
        )
        self.output_scale = (0.1 if base_lr is None else 1.0) if output_scale is None else output_scale
        self.nominal_lr = 1e-3 if base_lr is None else base_lr
        sizes = [2] + [hidden_size] * num_layers
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(4 * hidden_size, size + hidden_size) / math.sqrt(size + hidden_size))
            for size in sizes[:-1]
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(4 * hidden_size)) for _ in range(num_layers))
        self.output = nn.Parameter(torch.randn(hidden_size) * 0.01 / math.sqrt(hidden_size))
        self.log_lr = None if base_lr is None else nn.Parameter(torch.tensor(math.log(base_lr)))

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
        slots = [state.slots[name] for name in params]
        gradients, features = [working(grads[name]) for name in params], []
        directions = gradients
        if self.log_lr is not None:
            gradients = [grad.detach() for grad in gradients]
        if self.inputs == "rnnprop":
            read = [_rnnprop(grad, slot) for grad, slot in zip(gradients, slots, strict=True)]
            features, slots = [x for x, _ in read], [slot for _, slot in read]
        given = Given(gradients, features, [slot["hidden"] for slot in slots])
        theta = Theta(list(self.weights), list(self.biases), self.output)
        form = Form(self.inputs == "rnnprop", self.output_scale, self.p)
        step = fused_lstm.step if _fast(given, theta, form) else lstm_reference.step
        steps, hidden = step(given, theta, form)
        if self.log_lr is not None:
            rates = [torch.exp(self.log_lr.to(u.dtype) + u) for u in steps]
            steps = [-rate * grad for rate, grad in zip(rates, directions, strict=True)]
        updates = {name: u.to(params[name].dtype) for name, u in zip(params, steps, strict=True)}
        made = zip(params, slots, hidden, strict=True)
        new_slots = {name: slot | {"hidden": h.to(slot["hidden"].dtype)} for name, slot, h in made}
        return updates, OptState(state.step + 1, new_slots, state.shared)


def _fast(given: Given, theta: Theta, form: Form) -> bool:
    """Whether the fast form is to be taken: float32 numbers on the CPU, and a kernel that is built.

    Not inside `torch.func.grad`, which refuses operations of a library.
    """
    if not build.wanted() or inside_grad():
        return False
    fits = all(x.device.type == "cpu" and x.dtype == torch.float32 for x in (*given.grads, *given.hidden))
    return fits and available(theta.output.shape[-1], len(theta.weights), form.p)


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

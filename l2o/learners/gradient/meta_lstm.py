"""The LSTM meta-learner (Ravi and Larochelle, 2017, https://openreview.net/forum?id=rJY0-Kcll)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from l2o.rules.base import OptState, UpdateRule, check, working, zero_step
from l2o.rules.lstm_reference import log_gradient, lstm_cell
from l2o.types import Params


class MetaLSTMRule(UpdateRule):
    """An LSTM whose cell is a coordinate's weight: c <- f c - i g, with learned gates f and i (equations 2 and 3).

        i = sigmoid(W_I [h, c, i] + b_I),   f = sigmoid(W_F [h, c, f] + b_F)

    h is the state of a first LSTM that reads the gradient and the loss, both by their logarithm (section 3.2); gates
    read their own last value. All coordinates share the weights. The learned initial cell is the learner's slow
    weights (`MAML`); the paper takes gradients as constants (`order="first"`).

    Arguments:
        hidden_size: of the first LSTM, 20 in the paper.
        input_bias, forget_bias: b_I and b_F at first, drawn between two numbers; the authors': hardly any step, hardly
            any forgetting.
        p: exponent range of the logarithms.
    """

    # Where the authors' code differs: gates read their last value before the sigmoid, first 0, here what the equations
    # say, first i = 0 and f = 1; all weights start in U[-.01, .01], here those of the first LSTM at the usual scale and
    # with a forget bias of 1 (see `lstm_cell`), so that it remembers from the start.

    needs_loss = True

    def __init__(
        self,
        hidden_size: int = 20,
        input_bias: tuple[float, float] = (-5.0, -4.0),
        forget_bias: tuple[float, float] = (4.0, 5.0),
        p: float = 10.0,
    ) -> None:
        super().__init__()
        check(hidden_size >= 1, "hidden_size must be positive", hidden_size=hidden_size)
        check(p > 0, "p must be positive, the exponent range of the numbers told apart", p=p)
        self.hidden_size, self.p = hidden_size, p
        self.nominal_lr = 0.5 + 0.5 * math.tanh(sum(input_bias) / 4)  # the sigmoid of their mean: a fresh input gate
        inputs = 4 + hidden_size
        self.weight = nn.Parameter(torch.randn(4 * hidden_size, inputs) / math.sqrt(inputs))
        self.bias = nn.Parameter(torch.zeros(4 * hidden_size))
        # rows: the input gate and the forget gate; columns: h, the coordinate, the gate's last value
        self.gates = nn.Parameter(torch.randn(2, hidden_size + 2) * 0.01)
        low, high = torch.tensor([input_bias, forget_bias]).unbind(1)
        self.gate_bias = nn.Parameter(low + (high - low) * torch.rand(2))

    def init(self, params: Params, total_steps: int | Tensor | None = None) -> OptState:
        slots = {}
        for name, p in params.items():
            x = working(p)
            slots[name] = {
                "hidden": x.new_zeros(2, self.hidden_size, *p.shape),
                "gates": torch.stack([torch.zeros_like(x), torch.ones_like(x)]),
            }
        return OptState(zero_step(params), slots, {})

    def forward(
        self, grads: Params, state: OptState, params: Params, loss: Float[Tensor, ""] | None = None
    ) -> tuple[Params, OptState]:
        updates, slots = {}, {}
        for name, p in params.items():
            x, grad = working(p).reshape(-1), working(grads[name]).reshape(-1)
            hidden = state.slots[name]["hidden"].reshape(2, self.hidden_size, -1)
            seen = torch.zeros_like(x[:1]) if loss is None else loss.to(x.dtype).reshape(1)
            told = torch.cat([log_gradient(grad, self.p), log_gradient(seen, self.p).expand(2, grad.numel())])
            h, c = lstm_cell(told, hidden[0], hidden[1], self.weight.to(x.dtype), self.bias.to(x.dtype))
            gates = []
            for k in range(2):
                last = state.slots[name]["gates"][k].reshape(1, -1)
                score = self.gates[k].to(x.dtype) @ torch.cat([h, x.unsqueeze(0), last])
                gates.append(torch.sigmoid(score + self.gate_bias[k].to(x.dtype)))
            step = (gates[1] - 1.0) * x - gates[0] * grad
            updates[name] = step.view(p.shape).to(p.dtype)
            slots[name] = {
                "hidden": torch.stack([h, c]).view(2, self.hidden_size, *p.shape),
                "gates": torch.stack(gates).view(2, *p.shape),
            }
        return updates, OptState(state.step + 1, slots, state.shared)

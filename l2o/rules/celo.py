"""Celo: a learned schedule for a learned step, or for Adam's (Moudgil et al., 2025, https://arxiv.org/abs/2501.12670).

These rules compute what the published code does (amoudgl/celo), its accidents included, because released weights were
trained with them; `l2o.released` reads such weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from l2o.kernels.coordinate_mlp import Network
from l2o.rules.base import OptState, UpdateRule, check, check_mlp, check_scales, run_length, working, zero_step
from l2o.rules.coordinates import LARGE_SLOTS, remember, respond
from l2o.rules.features import (
    NUM_EXTENDED_FEATURES,
    bias_correction,
    fraction_features,
    fraction_trained,
    init_averages,
    initial_rates,
)
from l2o.rules.hand_designed import init_adam, rates_of
from l2o.rules.loss_features import NUM_LOSS_FEATURES, init_losses, loss_features, update_losses
from l2o.rules.lstm_reference import lstm_cell
from l2o.rules.network import CoordinateMLP, fan_in_linear, fan_in_normal
from l2o.rules.reference import PARAMETER_FEATURE
from l2o.rules.velo import THRESHOLDS
from l2o.types import Params

NUM_SCHEDULE_FEATURES = len(THRESHOLDS) + NUM_LOSS_FEATURES
"""18: fraction trained, loss."""


class Celo(UpdateRule):
    """A network of VeLO's features for every coordinate, and an LSTM that schedules its steps.

    With (d, m) the outputs for a coordinate's 30 features, its step is

        -step_scale * s * d * exp(magnitude_scale * m) * rms(p),   rms(p) = sqrt(mean p^2 + 1e-9),

    s the multiplier that a `Schedule` reads from the fraction trained and the loss. Steps are relative to the
    parameters' size. Give `total_steps` and the loss; see `Schedule` for what it does without.

    As in the published code, and unlike `VeLO`: coordinates that have never had a gradient move too; vectors' momenta
    are divided by the bare root of their squares' average (which starts from 1e-30), so that a coordinate whose
    gradients have ceased stands out; spikes of the loss are capped too low at first. Its third output, the first layer
    of its mixing, and the blend of a single network are never used, and not here. Names of dimensions differ: its
    weights are (inputs, outputs), and of two equal dimensions the later one counts as the larger.

    Arguments:
        lstm_hidden_size: of the schedule; 64 in the paper.
        hidden_size, num_layers: of the MLP.
        step_scale: size of a step relative to the parameters', before training.
        magnitude_scale: how fast the second output changes the size of a step.
        momentum_decays: of the averages of the gradient (3).
        second_decays: of its square (1).
        factored_decays: of its square's row and column means (3).
        max_gradient: gradients are clipped to this.
    """

    needs_loss = True
    large_slots = LARGE_SLOTS
    defers = True
    rates: Tensor

    def __init__(
        self,
        lstm_hidden_size: int = 64,
        hidden_size: int = 4,
        num_layers: int = 2,
        step_scale: float = 1e-3,
        magnitude_scale: float = 1e-3,
        momentum_decays: Sequence[float] = (0.9, 0.99, 0.999),
        second_decays: Sequence[float] = (0.999,),
        factored_decays: Sequence[float] = (0.9, 0.99, 0.999),
        max_gradient: float = 1e3,
    ) -> None:
        super().__init__()
        check_mlp(hidden_size, num_layers)
        check_scales(step_scale, max_gradient)
        self.nominal_lr = step_scale
        self.network = Network(
            hidden_size,
            num_layers,
            num_outputs=2,
            extended=True,
            residual=False,
            normalize=False,
            eps=1e-5,
            eps_second=1e-6,
            max_gradient=max_gradient,
            magnitude_scale=magnitude_scale,
            size=-step_scale,
            masked=False,
            eps_diagonal=0.0,
            eps_square=1e-30,
        )
        self.schedule = Schedule(lstm_hidden_size)
        self.net = CoordinateMLP([NUM_EXTENDED_FEATURES, *[hidden_size] * num_layers, 2])
        self.register_buffer("rates", initial_rates(momentum_decays, second_decays, factored_decays), persistent=False)

    def init(self, params: Params, total_steps: int | Tensor | None = None) -> OptState:
        slots = {name: init_averages(p) for name, p in params.items()}
        return OptState(zero_step(params), slots, self.schedule.init(params, total_steps))

    def forward(
        self, grads: Params, state: OptState, params: Params, loss: Float[Tensor, ""] | None = None
    ) -> tuple[Params, OptState]:
        multiplier, shared = self.schedule(state, loss)
        slots, seen = remember(params, grads, state.slots, self.rates, self.network)
        ps = [working(p) for p in params.values() if p.numel()]
        if not ps:
            return {name: torch.zeros_like(p) for name, p in params.items()}, OptState(state.step + 1, slots, shared)
        squares = torch.stack([p.square().mean() for p in ps]) if seen is None else seen.moments[:, PARAMETER_FEATURE]
        sizes = multiplier * torch.sqrt(squares + 1e-9)
        updates = respond(params, grads, slots, seen, self.net(), self.network, sizes)
        return updates, OptState(state.step + 1, slots, shared)


class CeloAdam(UpdateRule):
    """Adam whose learning rate a `Schedule` writes, with m and v its bias-corrected averages:

        -step_scale * s * m / (sqrt(v + 1e-10) + eps).

    Give `total_steps` and the loss; see `Schedule` for what it does without.

    Arguments:
        lstm_hidden_size: of the schedule; 64 in the paper.
        step_scale: learning rate before the schedule's multiplier.
        betas: decays of m and v.
        eps: added to the root.
        max_gradient: gradients are clipped to this.
    """

    needs_loss = True
    large_slots = ("m", "v")
    rates: Tensor

    def __init__(
        self,
        lstm_hidden_size: int = 64,
        step_scale: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        max_gradient: float = 1e3,
    ) -> None:
        super().__init__()
        check_scales(step_scale, max_gradient)
        check(eps >= 0.0, "eps must be >= 0, because it keeps steps small", eps=eps)
        self.nominal_lr, self.step_scale, self.eps, self.max_gradient = step_scale, step_scale, eps, max_gradient
        self.schedule = Schedule(lstm_hidden_size)
        rates_of(betas)
        self.register_buffer("rates", 1.0 - torch.tensor(list(betas)), persistent=False)

    def init(self, params: Params, total_steps: int | Tensor | None = None) -> OptState:
        slots = {name: init_adam(p) for name, p in params.items()}
        return OptState(zero_step(params), slots, self.schedule.init(params, total_steps))

    def forward(
        self, grads: Params, state: OptState, params: Params, loss: Float[Tensor, ""] | None = None
    ) -> tuple[Params, OptState]:
        multiplier, shared = self.schedule(state, loss)
        updates, slots = {}, {}
        for name, p in params.items():
            direction, slots[name] = self._direction(working(grads[name]).to(working(p).dtype), state.slots[name])
            updates[name] = (-self.step_scale * multiplier.to(direction.dtype) * direction).to(p.dtype)
        return updates, OptState(state.step + 1, slots, shared)

    def _direction(
        self, grad: Float[Tensor, "*p"], slot: dict[str, Tensor]
    ) -> tuple[Float[Tensor, "*p"], dict[str, Tensor]]:
        grad = grad.clamp(-self.max_gradient, self.max_gradient)
        rate1, rate2 = self.rates.to(grad.dtype).unbind()
        count = slot["count"] + 1
        m, v = torch.lerp(slot["m"], grad, rate1), torch.lerp(slot["v"], grad.square(), rate2)
        root = torch.sqrt(v / bias_correction(rate2, count) + 1e-10)
        return m / bias_correction(rate1, count) / (root + self.eps), {"m": m, "v": v, "count": count}


class Schedule(nn.Module):
    """One multiplier of all steps: 0.1 exp(w . h + b), with h = LSTM(skip(f) + relu(mix(f))).

    f are 18 features: the fraction trained against nine thresholds, and where averages of the loss stand (see
    `l2o.rules.loss_features`). In the paper each tensor has its LSTM; they read the same and so are one. It starts from
    a state that is learned. Without the length of the run it is always at its beginning, without a loss the
    features of the loss are zero, as in the first two steps.

    Arguments:
        hidden_size: of the LSTM.
    """

    thresholds: Tensor

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        check(hidden_size >= 1, "lstm_hidden_size must be >= 1, the memory of the run", lstm_hidden_size=hidden_size)
        self.hidden_size = hidden_size
        self.mix = fan_in_linear(NUM_SCHEDULE_FEATURES, hidden_size)
        self.skip = fan_in_linear(NUM_SCHEDULE_FEATURES, hidden_size)
        self.start = nn.Parameter(torch.zeros(2, hidden_size))
        self.lstm_weight = nn.Parameter(fan_in_normal(torch.empty(4 * hidden_size, 2 * hidden_size)))
        self.lstm_bias = nn.Parameter(torch.zeros(4 * hidden_size))
        self.multiplier = fan_in_linear(hidden_size, 1)
        self.register_buffer("thresholds", torch.tensor(THRESHOLDS), persistent=False)

    def init(self, params: Params, total_steps: int | Tensor | None) -> dict[str, Tensor]:
        """What is shared by all tensors before the first step."""
        length = run_length(params, total_steps)
        hidden = {"hidden": length.new_zeros(2, self.hidden_size)}
        return {"total_steps": length, **hidden, **init_losses(length, shortest=1.0)}

    def forward(self, state: OptState, loss: Float[Tensor, ""] | None) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The multiplier of this step, and what is shared after it."""
        shared = state.shared if loss is None else update_losses(state.shared, loss, early=True)
        total, hidden, dtype = shared["total_steps"], shared["hidden"], self.start.dtype
        fraction = fraction_trained(state.step, total).to(dtype)
        f = torch.cat([fraction_features(fraction, self.thresholds), loss_features(shared).to(dtype)])
        before = torch.where(state.step == 0, self.start, hidden.to(dtype)).unsqueeze(-1)
        x = (self.skip(f) + torch.relu(self.mix(f))).unsqueeze(-1)
        h, c = lstm_cell(x, before[0], before[1], self.lstm_weight, self.lstm_bias)
        multiplier = 0.1 * torch.exp(self.multiplier(h.squeeze(-1)).squeeze(-1))
        return multiplier.to(hidden.dtype), shared | {"hidden": torch.cat([h, c], dim=1).T.to(hidden.dtype)}

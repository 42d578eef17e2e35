"""A per-parameter MLP with Adafactor features: `small_fc_lopt` (Metz et al., 2022, https://arxiv.org/abs/2203.11860)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from l2o.kernels.coordinate_mlp import Network
from l2o.rules.base import OptState, UpdateRule, check_mlp, check_scales, zero_step
from l2o.rules.coordinates import LARGE_SLOTS, remember, respond
from l2o.rules.features import NUM_AVERAGES, NUM_FEATURES, init_averages, initial_rates, time_features
from l2o.rules.network import CoordinateMLP
from l2o.types import Params

TIMESCALES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)


class MLPRule(UpdateRule):
    """One small MLP, shared by every coordinate, maps 39 features to a step.

    With (d, m) = MLP(28 features of unit second moment over the tensor, 11 of time), a coordinate moves by
    -step_scale * d * exp(magnitude_scale * m), if it has ever had a gradient. The decays of the averages are learned:
    1 - decay is its start times exp(10 x), x the parameter.

    Arguments:
        hidden_size, num_layers: of the MLP; 4 and 2 in the paper (197 numbers with the decays), 32 in muLO and PyLO.
        step_scale: size of a step before training; small, so an untrained rule is harmless.
        magnitude_scale: how fast the second output changes the size of a step.
        momentum_decays: of the averages of the gradient (3).
        second_decays: of its square (1).
        factored_decays: of its square's row and column means (3).
        max_gradient: gradients are clipped to this, which the paper does not, lest squares of squares overflow.
    """

    def __init__(
        self,
        hidden_size: int = 4,
        num_layers: int = 2,
        step_scale: float = 1e-3,
        magnitude_scale: float = 1e-3,
        momentum_decays: Sequence[float] = (0.9, 0.99, 0.999),
        second_decays: Sequence[float] = (0.999,),
        factored_decays: Sequence[float] = (0.9, 0.99, 0.999),
        max_gradient: float = 1e6,
    ) -> None:
        super().__init__()
        check_mlp(hidden_size, num_layers)
        check_scales(step_scale, max_gradient)
        self.nominal_lr = step_scale
        self.network = Network(
            hidden_size,
            num_layers,
            num_outputs=2,
            extended=False,
            residual=False,
            normalize=False,
            eps=1e-5,
            eps_second=1e-6,
            max_gradient=max_gradient,
            magnitude_scale=magnitude_scale,
            size=-step_scale,
        )
        self.net = CoordinateMLP([NUM_FEATURES + len(TIMESCALES), *[hidden_size] * num_layers, 2])
        self.decays = nn.ParameterList(nn.Parameter(torch.zeros(num)) for num in NUM_AVERAGES)
        self.register_buffer("rates", initial_rates(momentum_decays, second_decays, factored_decays), persistent=False)
        self.register_buffer("timescales", torch.tensor(TIMESCALES), persistent=False)

    large_slots = LARGE_SLOTS
    defers = True
    rates: Tensor
    timescales: Tensor

    def init(self, params: Params, total_steps: int | Tensor | None = None) -> OptState:
        return OptState(zero_step(params), {name: init_averages(p) for name, p in params.items()}, {})

    def forward(
        self, grads: Params, state: OptState, params: Params, loss: Float[Tensor, ""] | None = None
    ) -> tuple[Params, OptState]:
        rates = (self.rates * torch.exp(10.0 * torch.cat(list(self.decays)))).clamp(max=1.0)
        layers = self.net(context=time_features(state.step, self.timescales))
        slots, seen = remember(params, grads, state.slots, rates, self.network)
        updates = respond(params, grads, slots, seen, layers, self.network)
        return updates, OptState(state.step + 1, slots, state.shared)

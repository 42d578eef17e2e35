"""VeLO: a network for each tensor writes the network for its coordinates (Metz et al., 2022,
https://arxiv.org/abs/2211.09760)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from l2o.kernels.coordinate_mlp import Network
from l2o.rules.base import OptState, UpdateRule, check, check_mlp, check_scales, run_length, working, zero_step
from l2o.rules.constants import numbers
from l2o.rules.coordinates import LARGE_SLOTS, remember, respond
from l2o.rules.features import fraction_features, fraction_trained, init_averages, initial_rates
from l2o.rules.loss_features import NUM_LOSS_FEATURES, init_losses, loss_features, update_losses
from l2o.rules.lstm import lstm_cell
from l2o.rules.network import columns, fan_in_linear, fan_in_normal
from l2o.rules.reference import layer_shapes
from l2o.types import Params

THRESHOLDS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)
NUM_RANKS = 5
NUM_TENSOR_FEATURES = len(THRESHOLDS) + NUM_LOSS_FEATURES + 3 + 1 + 1 + NUM_RANKS
"""28: fraction trained, loss, variance of each momentum, mean and variance of the second moment, rank."""


class VeLO(UpdateRule):
    """A hypernetwork over tensors, an MLP over coordinates.

    An LSTM reads 28 features of each tensor, mixed over tensors by a maximum, and writes blend coefficients c and a
    multiplier s. The tensor's own MLP has the weights 100 mean_j(c_j W_j) of a learned bank W; with (d, m) its outputs
    for a coordinate's 30 features, the coordinate moves by

        -step_scale * d * exp(magnitude_scale * m) * rms(p) * s,   rms(p) = sqrt(mean p^2 + 1e-9),

    if it has ever had a gradient. Steps are relative to the parameters' size. Without `total_steps` the features of the
    fraction trained are zero, without a loss those of the loss: the rule then follows no schedule.

    Mended here, against the published code: the LSTM's state is carried on, the loss averages know the length of the
    run, the hidden layer of the mixing is used, the statistics include the present gradient, and the variance of the
    second moment is about its own mean, not the momenta's (there, three features by accident: 30 in all). So its
    weights do not fit.

    Arguments:
        lstm_hidden_size: 512 in the paper.
        num_bank: networks in the bank, 256 in the paper.
        hidden_size, num_layers: of the MLPs.
        step_scale: size of a step relative to the parameters', before training.
        magnitude_scale: how fast the second output changes the size of a step.
        momentum_decays: of the averages of the gradient (3).
        second_decays: of its square (1).
        factored_decays: of its square's row and column means (3).
        max_gradient: gradients are clipped to this.
    """

    needs_loss = True

    def __init__(
        self,
        lstm_hidden_size: int = 64,
        num_bank: int = 32,
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
        check(
            lstm_hidden_size >= 1,
            "lstm_hidden_size must be >= 1, the memory of a tensor",
            lstm_hidden_size=lstm_hidden_size,
        )
        check(num_bank >= 1, "num_bank must be >= 1, because networks are blended from it", num_bank=num_bank)
        check_mlp(hidden_size, num_layers)
        check_scales(step_scale, max_gradient)
        self.nominal_lr = step_scale
        self.lstm_hidden_size = lstm_hidden_size
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
        )
        self.controller = Controller(NUM_TENSOR_FEATURES, lstm_hidden_size, num_bank)
        shapes = layer_shapes(self.network)
        self.bank = nn.Parameter(torch.cat([_init_layer(num_bank, *shape) for shape in shapes], dim=1))
        self.register_buffer("rates", initial_rates(momentum_decays, second_decays, factored_decays), persistent=False)
        self.register_buffer("thresholds", torch.tensor(THRESHOLDS), persistent=False)

    large_slots = LARGE_SLOTS
    defers = True
    rates: Tensor
    thresholds: Tensor

    def init(self, params: Params, total_steps: int | Tensor | None = None) -> OptState:
        slots = {}
        for name, p in params.items():
            slots[name] = init_averages(p) | {"hidden": working(p).new_zeros(2, self.lstm_hidden_size)}
        length = run_length(params, total_steps)
        return OptState(zero_step(params), slots, {"total_steps": length, **init_losses(length)})

    def forward(
        self, grads: Params, state: OptState, params: Params, loss: Float[Tensor, ""] | None = None
    ) -> tuple[Params, OptState]:
        shared = state.shared if loss is None else update_losses(state.shared, loss)
        slots, seen = remember(params, grads, state.slots, self.rates, self.network)
        names = [name for name, p in params.items() if p.numel()]
        if not names:
            return {name: torch.zeros_like(p) for name, p in params.items()}, OptState(state.step + 1, slots, shared)
        ps = {name: working(params[name]) for name in names}
        if seen is None:
            measured = torch.stack([statistics(p, slots[name]) for name, p in ps.items()])
        else:
            measured = statistics_from(seen.moments)
        layers, sizes, hidden = self._control(measured, ps, slots, shared, state.step)
        updates = respond(params, grads, slots, seen, layers, self.network, sizes)
        for name, h in zip(names, hidden, strict=True):
            slots[name] = slots[name] | {"hidden": h.to(slots[name]["hidden"].dtype)}
        return updates, OptState(state.step + 1, slots, shared)

    def _control(
        self,
        statistics: Float[Tensor, "tensors 6"],
        params: Params,
        slots: dict[str, dict[str, Tensor]],
        shared: dict[str, Tensor],
        step: Tensor,
    ) -> tuple[Float[Tensor, "tensors w"], Float[Tensor, " tensors"], Float[Tensor, "tensors 2 h"]]:
        """The weights of every tensor's own MLP, the size of its steps, and the next state of its LSTM."""
        dtype, total = self.bank.dtype, shared["total_steps"]
        fraction = fraction_trained(step, total).to(dtype)
        run = torch.where(total > 0, fraction_features(fraction, self.thresholds), 0.0)
        run = torch.cat([run, loss_features(shared).to(dtype)]).expand(len(params), -1)
        ranks = rank_features([p.shape for p in params.values()], statistics)
        features = torch.cat([run, tensor_features(statistics).to(dtype), ranks.to(dtype)], dim=1)
        hidden = torch.stack([slots[name]["hidden"].to(dtype) for name in params])
        controls, multipliers, hidden = self.controller(features, hidden)
        sizes = multipliers.to(statistics.dtype) * torch.sqrt(statistics[:, 0] + 1e-9)
        return (100.0 / len(self.bank) * controls @ self.bank).to(statistics.dtype), sizes, hidden


class Controller(nn.Module):
    """The network over tensors: features mixed by a maximum, an LSTM, blend coefficients and a step multiplier.

    x = skip(f) + max over tensors of relu(mix2 relu(mix1 f)); h = LSTM(x); coefficients and multiplier are linear in h.
    It starts with a multiplier of 1 and with blends as large as one network of the bank, whatever the sizes.

    Arguments:
        num_features: of a tensor.
        hidden_size: of the LSTM.
        num_bank: number of blend coefficients.
    """

    def __init__(self, num_features: int, hidden_size: int, num_bank: int) -> None:
        super().__init__()
        self.mix1, self.mix2 = fan_in_linear(num_features, hidden_size), fan_in_linear(hidden_size, hidden_size)
        self.skip = fan_in_linear(num_features, hidden_size)
        self.lstm_weight = nn.Parameter(fan_in_normal(torch.empty(4 * hidden_size, 2 * hidden_size)))
        self.lstm_bias = nn.Parameter(torch.zeros(4 * hidden_size))
        self.blend, self.multiplier = fan_in_linear(hidden_size, num_bank), fan_in_linear(hidden_size, 1)
        with torch.no_grad():
            unit = math.sqrt(num_bank) / 100.0  # 100 mean_j(c_j W_j) has the variance of W for c of this deviation
            self.blend.weight.mul_(unit)
            self.blend.bias.normal_(std=unit)
            self.multiplier.weight.zero_()
            self.multiplier.bias.fill_(1.0)

    def forward(
        self, features: Float[Tensor, "tensors f"], hidden: Float[Tensor, "tensors 2 h"]
    ) -> tuple[Float[Tensor, "tensors b"], Float[Tensor, " tensors"], Float[Tensor, "tensors 2 h"]]:
        """Blend coefficients, step multipliers and the next state of every tensor."""
        mixed = torch.relu(self.mix2(torch.relu(self.mix1(features)))).amax(dim=0)
        h, c = hidden.unbind(dim=1)
        h, c = lstm_cell((self.skip(features) + mixed).T, h.T, c.T, self.lstm_weight, self.lstm_bias)
        return self.blend(h.T), self.multiplier(h.T).squeeze(-1), torch.stack([h.T, c.T], dim=1)


def statistics(p: Float[Tensor, "*p"], slot: dict[str, Tensor]) -> Float[Tensor, " 6"]:
    """Mean square of a tensor, variance of each of its momenta, mean and variance of its second moment."""
    m, v = columns(slot["momenta"]), columns(slot["second"])
    centred_m, v_mean = m - m.mean(dim=1, keepdim=True), v.mean(dim=1, keepdim=True)
    v_variance = (v - v_mean).square().mean(dim=1)
    return torch.cat([p.square().mean().view(1), centred_m.square().mean(dim=1), v_mean.squeeze(1), v_variance])


def statistics_from(moments: Float[Tensor, "tensors k"]) -> Float[Tensor, "tensors 6"]:
    """The same of all tensors, from their moments (see `l2o.rules.reference.moments`)."""
    square, means = moments[:, 1:6], moments[:, 30:34]
    variances = (square[:, 1:] - means.square()).clamp(min=0.0)
    return torch.cat([square[:, :1], variances[:, :3], means[:, 3:], variances[:, 3:]], dim=1)


def tensor_features(statistics: Float[Tensor, "tensors 6"]) -> Float[Tensor, "tensors f"]:
    """Logarithms of the statistics of the averages, in units of the tensor's root mean square."""
    scale = torch.rsqrt(statistics[:, :1].clamp(min=1e-9))
    squared = statistics[:, 1:] * torch.cat([scale.square().expand(-1, 3), scale, scale.square()], dim=1)
    return torch.log(1e-8 + (10.0 * squared).abs()).clamp(-5.0, 5.0) * 0.5


def rank_features(shapes: Sequence[Sequence[int]], like: Tensor) -> Float[Tensor, "tensors r"]:
    """Each tensor's rank (dimensions above 1), one-hot, beside another tensor."""
    ranks = [min(sum(size > 1 for size in shape), NUM_RANKS - 1) for shape in shapes]
    return numbers(tuple(tuple(float(rank == i) for i in range(NUM_RANKS)) for rank in ranks), like)


def _init_layer(num: int, num_outputs: int, num_inputs: int) -> Tensor:
    """`num` layers as rows: weights with fan-in scale, then zero biases."""
    weights = fan_in_normal(torch.empty(num, num_outputs, num_inputs)).flatten(1)
    return torch.cat([weights, torch.zeros(num, num_outputs)], dim=1)

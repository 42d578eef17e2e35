"""Muon with two small networks beside it: one corrects the direction of each coordinate, one steers each tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from l2o.kernels.coordinate_mlp import Network
from l2o.rules.base import OptState, UpdateRule, check, working, zero_count, zero_step
from l2o.rules.coordinates import LARGE_SLOTS, Seen, Slots, remember, respond, share_moved
from l2o.rules.features import NUM_EXTENDED_FEATURES, bias_correction, init_averages, initial_rates
from l2o.rules.loss_features import init_losses, update_losses
from l2o.rules.network import CoordinateMLP
from l2o.rules.newton_schulz import newton_schulz_many
from l2o.rules.steering import NUM_COSINES, Steering, cosines
from l2o.types import Params

EPS = 1e-30


class LearnedMuon(UpdateRule):
    """Muon (Jordan et al., 2024) that needs no tuning: it meets the scale of each tensor and follows the whole run.

    A fresh rule is Muon with Nesterov momentum .9 on matrices, orthogonalised by Newton-Schulz, and Adam on vectors,
    with a warm-up, a cosine to zero and steps that grow with the root of a tensor's own size. Training adds to it:

        d = b / rms(b) + alpha m / rms(m) + beta g / rms(g) + MLP(z)           direction of a tensor
        update = -size * normalised(d),   size = step_scale * schedule * exp(log_factor)

    with g the gradient, b its fast momentum (looked ahead), m its slow one, z the 30 features of Celo2 (Moudgil et
    al., 2026, https://arxiv.org/abs/2602.19142), and alpha, beta, log_factor written for each tensor by `Steering`
    from how training goes: the loss, the fraction trained, how gradients agree, the tensor's size and shape. All
    corrections start at zero. A matrix is orthogonalised and has steps of a fifth of `size` (root mean square), about
    what Adam's are (Liu et al., 2025, https://arxiv.org/abs/2502.16982, section 2.2); a vector is divided by the root
    of its second moment. Tensors of rank above 2 are matrices of their first dimension by all others.

    Without `total_steps` there is no decay, without a loss its features are zero.

    Arguments:
        hidden_size, num_layers: of the MLP over coordinates.
        steering_size: hidden units of the network over tensors.
        step_scale: size of a step of a vector; of a matrix, a fifth of it.
        momentum_decays: of the averages of the gradient (3): fast, slow, slowest.
        second_decays: of its square (1).
        factored_decays: of its square's row and column means (3).
        max_gradient: gradients are clipped to this.
    """

    needs_loss = True

    def __init__(
        self,
        hidden_size: int = 8,
        num_layers: int = 2,
        steering_size: int = 16,
        step_scale: float = 0.02,
        momentum_decays: Sequence[float] = (0.9, 0.99, 0.999),
        second_decays: Sequence[float] = (0.99,),
        factored_decays: Sequence[float] = (0.9, 0.99, 0.999),
        max_gradient: float = 1e3,
    ) -> None:
        super().__init__()
        check(hidden_size >= 1 and num_layers >= 1, "an MLP needs a hidden unit", size=hidden_size, layers=num_layers)
        check(steering_size >= 1, "steering_size must be >= 1, the units that steer", steering_size=steering_size)
        check(step_scale > 0.0, "step_scale must be > 0, or nothing moves", step_scale=step_scale)
        check(max_gradient > 0.0, "max_gradient must be > 0, or nothing moves", max_gradient=max_gradient)
        self.step_scale = self.nominal_lr = step_scale
        self.network = Network(
            hidden_size,
            num_layers,
            num_outputs=1,
            extended=True,
            residual=False,
            normalize=False,
            eps=1e-9,
            eps_second=1e-8,
            max_gradient=max_gradient,
            magnitude_scale=0.0,
            size=1.0,
        )
        self.net = CoordinateMLP([NUM_EXTENDED_FEATURES, *[hidden_size] * num_layers, 1], zero_output=True)
        self.steering = Steering(steering_size)
        self.register_buffer("rates", initial_rates(momentum_decays, second_decays, factored_decays), persistent=False)

    large_slots = LARGE_SLOTS
    defers = True
    rates: Tensor

    def init(self, params: Params, total_steps: int | Tensor | None = None) -> OptState:
        slots = {}
        for name, p in params.items():
            own = {"count": zero_count(p), "cosines": working(p).new_zeros(NUM_COSINES)}
            slots[name] = init_averages(p) | own
        p = working(next(iter(params.values())))
        length = torch.as_tensor(0.0 if total_steps is None else total_steps, dtype=p.dtype, device=p.device)
        return OptState(zero_step(params), slots, {"total_steps": length, **init_losses(length)})

    def forward(
        self, grads: Params, state: OptState, params: Params, loss: Float[Tensor, ""] | None = None
    ) -> tuple[Params, OptState]:
        shared = state.shared if loss is None else update_losses(state.shared, loss)
        slots, seen = remember(params, grads, state.slots, self.rates, self.network)
        names = [name for name, p in params.items() if p.numel()]
        if not names:
            return {name: torch.zeros_like(p) for name, p in params.items()}, OptState(state.step + 1, slots, shared)
        bound = self.network.max_gradient
        gs = {name: working(grads[name]).to(working(params[name]).dtype).clamp(-bound, bound) for name in names}
        for name in names:
            before = state.slots[name]
            own = {"count": before["count"] + 1, "cosines": cosines(gs[name], before)}
            slots[name] = slots[name] | own
        averages = {name: self._averages(gs[name], slots[name], seen) for name in names}
        ps = {name: working(params[name]) for name in names}
        steer = self.steering(ps, averages, slots, shared, state.step)
        learned = respond(params, grads, slots, seen, self.net(), self.network)
        directions = {}
        for i, name in enumerate(names):
            looks = self._vector if gs[name].ndim < 2 else self._matrix
            look = looks(gs[name], *averages[name], steer.slow[i], steer.fresh[i], slots[name]["count"])
            directions[name] = look + learned[name].to(look.dtype)
        shares = dict(zip(names, share_moved(slots, seen, names), strict=True))
        matrices = [name for name in names if directions[name].ndim >= 2]
        orthogonal = newton_schulz_many([directions[name].flatten(1) for name in matrices])
        for name, matrix in zip(matrices, orthogonal, strict=True):
            count = (shares[name] * matrix.numel()).clamp(min=1.0)
            scale = 0.2 * torch.rsqrt(matrix.square().sum() / count + 1e-9)
            directions[name] = (scale * matrix).view(directions[name].shape)
        updates = {name: torch.zeros_like(p) for name, p in params.items()}
        for i, name in enumerate(names):
            updates[name] = (-self.step_scale * steer.factors[i] * directions[name]).to(params[name].dtype)
        return updates, OptState(state.step + 1, slots, shared)

    def _averages(self, g: Tensor, slot: dict[str, Tensor], seen: Seen | None) -> tuple[Tensor, Tensor]:
        """Momenta and second moment after this gradient, also where bringing them up to date was deferred."""
        m, v = slot["momenta"].to(g.dtype), slot["second"].to(g.dtype)
        if seen is None or seen.rates is None:
            return m, v[0]
        rates = self.rates.to(g.dtype)
        m = torch.lerp(m, g, rates[:3].view(-1, *[1] * g.ndim))
        return m, torch.lerp(v[0], g.square(), rates[3])

    def _matrix(self, g: Tensor, m: Tensor, v: Tensor, slow: Tensor, fresh: Tensor, count: Tensor) -> Tensor:
        """Where a matrix looks: momenta in units of their root mean squares."""
        ahead = torch.lerp(m[0], g, self.rates[0].to(g.dtype))
        return _unit(ahead) + slow * _unit(m[1]) + fresh * _unit(g)

    def _vector(self, g: Tensor, m: Tensor, v: Tensor, slow: Tensor, fresh: Tensor, count: Tensor) -> Tensor:
        """Where a vector looks: the same in units of each coordinate's second moment, as Adam's step."""
        rates = self.rates.to(g.dtype)
        ahead = torch.lerp(m[0], g, rates[0]) / bias_correction(rates[0], count)
        look = ahead + slow * m[1] / bias_correction(rates[1], count) + fresh * g
        return look * torch.rsqrt(v / bias_correction(rates[3], count) + EPS)


def _unit(x: Float[Tensor, "*p"]) -> Float[Tensor, "*p"]:
    return x * torch.rsqrt(x.square().mean() + EPS)

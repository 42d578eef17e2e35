"""Muon with two small networks beside it: one corrects the direction of each coordinate, one steers each tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from l2o.kernels.coordinate_mlp import Network
from l2o.rules.alike import alike, stacked
from l2o.rules.base import (
    OptState,
    UpdateRule,
    check,
    check_mlp,
    check_scales,
    run_length,
    working,
    zero_count,
    zero_step,
)
from l2o.rules.constants import numbers
from l2o.rules.coordinates import LARGE_SLOTS, Seen, measure, remember, respond
from l2o.rules.features import NUM_EXTENDED_FEATURES, bias_correction, init_averages, initial_rates
from l2o.rules.loss_features import init_losses, update_losses
from l2o.rules.network import CoordinateMLP
from l2o.rules.newton_schulz import orthogonal_steps
from l2o.rules.steering import BARE, NUM_RECALLED, Steer, Steering, recall
from l2o.types import Params

SMALLEST = 1e-23
"""What smaller mean squares are taken for: their inverse roots have finite derivatives."""
MATRIX_SHARE = 0.2
"""Root mean square of a matrix's step over a vector's."""
MOST = 1.25
"""Largest singular value of a matrix's step over that of an orthogonal one of full rank."""
SPARSE = 0.5
"""A table is a matrix higher than wide of whose rows a larger share, on average, has no gradient in a step."""


class Told(NamedTuple):
    """What is told the steps of each tensor, (tensors,) each.

    fast, slow, grad: what fast momentum, slow momentum and gradient are multiplied by.
    correction: of the second moment, for its start at zero.
    share: of its coordinates that move.
    table: 1 if it is one, else 0.
    size: of its step.
    decay: of a matrix.
    """

    fast: Tensor
    slow: Tensor
    grad: Tensor
    correction: Tensor
    share: Tensor
    table: Tensor
    size: Tensor
    decay: Tensor


class LearnedMuon(UpdateRule):
    """Muon (Jordan et al., 2024) that needs no tuning: it meets the scale of each tensor and follows the whole run.

    A fresh rule is Muon with Nesterov momentum .9 on matrices, orthogonalised by Newton-Schulz, and Adam on vectors,
    with a warm-up, a cosine to a hundredth, and a decay of matrices that is the same over a run of any length. Training
    adds:

        matrix:  u = a fifth of orthogonal(b / rms(b) + alpha m / rms(m) + beta g / rms(g) + MLP(z))
        vector:  u = (b + alpha m + beta g) / sqrt(v) + MLP(z)
        update = -step_scale * factor * u - decay * p

    with g the gradient, b its fast momentum (looked ahead), m its slow one, v its second moment, z the 30 features of
    Celo2 (Moudgil et al., 2026, https://arxiv.org/abs/2602.19142), and alpha, beta, factor and decay written for each
    tensor by `Steering` from how training goes: the loss, the fraction trained, how gradients agree, the tensor's size.
    All corrections start at zero. A matrix's step is as large beside its usual initial weights whatever its width, and
    no singular value moves further than in a step of full rank. While most matrices are smaller than usual, all steps
    are as much smaller. Tensors of rank above 2 are matrices of their first dimension by all others. Tables, of which a
    step sees few rows, as it does of words or users, are moved as vectors are: an orthogonal step would mix their rows.

    Without `total_steps` there is no cosine, and the decay is that of a long run; without a loss its features are zero.

    Arguments:
        hidden_size, num_layers: of the MLP over coordinates.
        steering_size: hidden units of the network over tensors.
        step_scale: size of a step of a vector; of a matrix of 64 columns a fifth of it, in root mean square, which is
            about what Adam's steps are (Liu et al., 2025, https://arxiv.org/abs/2502.16982, section 2.2).
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
        check_mlp(hidden_size, num_layers)
        check(steering_size >= 1, "steering_size must be >= 1, the units that steer", steering_size=steering_size)
        check_scales(step_scale, max_gradient)
        self.step_scale, self.nominal_lr = step_scale, MATRIX_SHARE * step_scale
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
            own = {"count": zero_count(p), "recalled": working(p).new_zeros(NUM_RECALLED)}
            slots[name] = init_averages(p) | own
        length = run_length(params, total_steps)
        return OptState(zero_step(params), slots, {"total_steps": length, **init_losses(length)})

    def forward(
        self, grads: Params, state: OptState, params: Params, loss: Float[Tensor, ""] | None = None
    ) -> tuple[Params, OptState]:
        shared = state.shared if loss is None else update_losses(state.shared, loss)
        slots, seen = remember(params, grads, state.slots, self.rates, self.network)
        names = [name for name, p in params.items() if p.numel()]
        updates = {name: p if p.numel() else torch.zeros_like(p) for name, p in params.items()}  # in this order
        if not names:
            return updates, OptState(state.step + 1, slots, shared)
        measured = measure(params, grads, slots, seen, self.network)
        counts = torch.stack([slots[name]["count"] for name in names]) + 1
        second = measured[:, 33] / bias_correction(self.rates[3].to(measured.dtype), counts.to(measured.dtype))
        before = torch.stack([slots[name]["recalled"] for name in names])
        batches = [[names[i] for i in batch] for batch in alike([params[name] for name in names])]
        bare = dict.fromkeys(names, counts.new_zeros(()))
        for batch in batches:
            if _may_be_table(params[batch[0]]):
                bare |= zip(batch, _bare(stacked([grads[name] for name in batch])).unbind(), strict=True)
        bares = torch.stack([bare[name].to(before.dtype) for name in names])
        recalled = recall(measured, before, second, self.rates[:2], bares, counts == 1)
        for name, count, own in zip(names, counts, recalled, strict=True):
            kept = slots[name]["recalled"].dtype
            slots[name] = slots[name] | {"count": count.to(kept), "recalled": own.to(kept)}
        columns = tuple(float(params[name][0].numel()) if params[name].ndim >= 2 else 0.0 for name in names)
        is_table = recalled[:, BARE] > SPARSE
        inputs = torch.where(is_table, 0.0, numbers(columns, recalled))
        steer = self.steering(inputs, measured, recalled, shared, state.step)
        learned = respond(params, grads, slots, seen, self.net(), self.network)
        told = Told(
            *self._weights(steer, measured, counts, inputs),
            bias_correction(self.rates[3].to(counts.dtype), counts),
            measured[:, -1],
            is_table.to(counts.dtype),
            -self.step_scale * steer.factors,
            steer.decays,
        )
        of = dict(zip(names, torch.stack(told, dim=1).unbind(), strict=True))
        for batch in batches:
            grad, p, more = (stacked([x[name] for name in batch]) for x in (grads, params, learned))
            momenta = stacked([slots[name]["momenta"][:2] for name in batch])
            second = stacked([slots[name]["second"][0] for name in batch])
            step = self._step(p, grad, momenta, second, seen, more, stacked([of[name] for name in batch]))
            updates |= {name: step[i] for i, name in enumerate(batch)}
        return updates, OptState(state.step + 1, slots, shared)

    def _step(
        self,
        p: Float[Tensor, "n *shape"],
        grad: Float[Tensor, "n *shape"],
        momenta: Float[Tensor, "n 2 *shape"],
        second: Float[Tensor, "n *shape"],
        seen: Seen | None,
        more: Float[Tensor, "n *shape"],
        told: Float[Tensor, "n numbers"],
    ) -> Float[Tensor, "n *shape"]:
        """The updates of tensors of one shape.

        Arguments:
            p, grad: the parameters and their gradients.
            momenta, second: their fast and slow momentum and second moment, as of `remember`.
            more: what the network over coordinates adds to their directions.
            told: the numbers of each, as `Told` has them.
        """
        dtype, is_vector, limit = working(p).dtype, p.ndim <= 2, self.network.max_gradient
        by = Told(*(x.view(-1, *[1] * (p.ndim - 1)) for x in told.to(dtype).unbind(1)))
        grad, more = grad.to(dtype).clamp(-limit, limit), more.to(dtype)
        fast, slow, second = self._averages(grad, momenta, second, seen)
        step = look = by.fast * fast + by.slow * slow + by.grad * grad
        if is_vector or _may_be_table(p[0]):
            step = look * torch.rsqrt((second / by.correction).clamp(min=SMALLEST)) + more
        if is_vector:  # keeps its coordinates apart, and forgets nothing
            return (by.size * step).to(p.dtype)
        whole = orthogonal_steps(look + more, by.share.flatten(), MATRIX_SHARE, MOST)
        step = by.size * (torch.where(by.table > 0, step, whole) if _may_be_table(p[0]) else whole)
        # coordinates that have never had a gradient stay
        return torch.where(step != 0, step - by.decay * p.to(dtype), step).to(p.dtype)

    def _weights(
        self,
        steer: Steer,
        measured: Float[Tensor, "tensors k"],
        counts: Float[Tensor, " tensors"],
        inputs: Float[Tensor, " tensors"],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What fast momentum, slow momentum and gradient of each tensor are multiplied by.

        A matrix's are first brought to unit root mean square, a vector's corrected for their start at zero; the fast
        one looks ahead with a share of the gradient.
        """
        r = self.rates.to(counts.dtype)
        unit = torch.rsqrt(torch.stack([measured[:, i] for i in (2, 3, 0)], dim=1).clamp(min=SMALLEST))
        corrected = torch.stack([1 / bias_correction(r[0], counts), 1 / bias_correction(r[1], counts)], dim=1)
        corrected = torch.nn.functional.pad(corrected, (0, 1), value=1.0)
        is_vector = inputs == 0
        scale = torch.where(is_vector.unsqueeze(1), corrected, unit)
        ahead = torch.where(is_vector, 1.0, scale[:, 0])
        return (1 - r[0]) * scale[:, 0], steer.slow * scale[:, 1], r[0] * ahead + steer.fresh * scale[:, 2]

    def _averages(
        self,
        grad: Float[Tensor, "n *shape"],
        momenta: Float[Tensor, "n 2 *shape"],
        second: Float[Tensor, "n *shape"],
        seen: Seen | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Fast and slow momentum and second moment after this gradient, also where `remember` has put that off."""
        fast, slow, v = (x.to(grad.dtype) for x in (*momenta.unbind(1), second))
        if seen is None or seen.rates is None:
            return fast, slow, v
        r = self.rates.to(grad.dtype).unbind()
        return torch.lerp(fast, grad, r[0]), torch.lerp(slow, grad, r[1]), torch.lerp(v, grad.square(), r[3])


def _may_be_table(p: Tensor) -> bool:
    return p.ndim == 2 and p.shape[0] > p.shape[1]


def _bare(grads: Float[Tensor, "n rows columns"]) -> Float[Tensor, " n"]:
    """Share of the rows of matrices whose gradient is zero."""
    return 1.0 - (grads != 0).any(dim=2).to(working(grads).dtype).mean(dim=1)

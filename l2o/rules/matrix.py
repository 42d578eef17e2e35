"""A tiny MLP whose step has unit size, after Celo2 (Moudgil et al., 2026, https://arxiv.org/abs/2602.19142)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from l2o.kernels.coordinate_mlp import Network
from l2o.rules.alike import alike, stacked
from l2o.rules.base import OptState, UpdateRule, check, check_mlp, check_scales, working, zero_step
from l2o.rules.coordinates import LARGE_SLOTS, remember, respond, share_moved
from l2o.rules.features import NUM_EXTENDED_FEATURES, check_decays, init_averages, initial_rates
from l2o.rules.hand_designed import adam_direction, init_adam, rates_of
from l2o.rules.network import CoordinateMLP
from l2o.rules.newton_schulz import orthogonal_steps
from l2o.types import Params


class MatrixRule(UpdateRule):
    """One small MLP, shared by every coordinate, gives the direction of a step; its size is fixed.

    With z the 30 features of a tensor, each of unit second moment over it, the direction u = MLP(z) [+ z_adam] is
    optionally orthogonalised, scaled to unit root mean square over the coordinates that have ever had a gradient (the
    others stay), and the tensor moves by -step_scale * u. There is no learned size, no time and no loss: the user
    chooses the learning rate and its schedule, as for AdamW.

    Tensors of rank above 2 are normalised as a whole and orthogonalised as matrices of their first dimension by all
    others. The paper takes the last two dimensions, which are a convolution's channels in JAX, its pixels in torch.
    Embeddings, which the paper leaves to AdamW, are not told apart, since a rule does not see names: give them to an
    optimizer of their own.

    Arguments:
        hidden_size, num_layers: of the MLP, 8 and 2 in the paper.
        residual: add z_adam, the momentum over the root of the second moment, to the output of the MLP, which starts
            at zero: an untrained rule is a normalised Adam, and meta-training starts from there. False is the paper.
        orthogonalize: replace a matrix's direction by the nearest orthogonal one, as Muon does.
        vectors: what moves tensors of rank 0 and 1: `adamw` (the paper, without weight decay, which is the drop-in's)
            or the `learned` network.
        vector_multiplier: learning rate of `adamw` for vectors over `step_scale`; the paper's is 20, which is too much
            for an untrained rule at the nominal learning rate.
        step_scale: root mean square of a step.
        momentum_decays: of the averages of the gradient (3).
        second_decays: of its square (1).
        factored_decays: of its square's row and column means (3).
        vector_betas: of `adamw`.
        max_gradient: gradients are clipped to this.
    """

    def __init__(
        self,
        hidden_size: int = 8,
        num_layers: int = 2,
        residual: bool = True,
        orthogonalize: bool = False,
        vectors: Literal["adamw", "learned"] = "adamw",
        vector_multiplier: float = 1.0,
        step_scale: float = 1e-3,
        momentum_decays: Sequence[float] = (0.9, 0.99, 0.999),
        second_decays: Sequence[float] = (0.95,),
        factored_decays: Sequence[float] = (0.9, 0.99, 0.999),
        vector_betas: Sequence[float] = (0.9, 0.95),
        max_gradient: float = 1e3,
    ) -> None:
        super().__init__()
        check_mlp(hidden_size, num_layers)
        check_scales(step_scale, max_gradient)
        check(
            vector_multiplier >= 0.0,
            "vector_multiplier must be >= 0: steps go down",
            vector_multiplier=vector_multiplier,
        )
        check(vectors in ("adamw", "learned"), "vectors must be 'adamw' or 'learned', which move them", vectors=vectors)
        check_decays(vector_betas=vector_betas)
        self.orthogonalize, self.vectors = orthogonalize, vectors
        self.step_scale, self.vector_multiplier, self.max_gradient = step_scale, vector_multiplier, max_gradient
        self.nominal_lr = step_scale
        self.network = Network(
            hidden_size,
            num_layers,
            num_outputs=1,
            extended=True,
            residual=residual,
            normalize=True,
            eps=1e-9,
            eps_second=1e-8,
            max_gradient=max_gradient,
            magnitude_scale=0.0,
            size=-step_scale,
        )
        self.net = CoordinateMLP([NUM_EXTENDED_FEATURES, *[hidden_size] * num_layers, 1], zero_output=residual)
        self.register_buffer("rates", initial_rates(momentum_decays, second_decays, factored_decays), persistent=False)
        adam = [*rates_of(vector_betas).values(), 1e-8]
        self.register_buffer("adam", torch.tensor(adam), persistent=False)

    large_slots = LARGE_SLOTS
    defers = True
    rates: Tensor
    adam: Tensor

    def init(self, params: Params, total_steps: int | Tensor | None = None) -> OptState:
        slots = {name: init_averages(p) if self._learns(p) else init_adam(p) for name, p in params.items()}
        return OptState(zero_step(params), slots, {})

    def forward(
        self, grads: Params, state: OptState, params: Params, loss: Float[Tensor, ""] | None = None
    ) -> tuple[Params, OptState]:
        learned = {name: p for name, p in params.items() if self._learns(p)}
        before = {name: state.slots[name] for name in learned}
        slots, seen = remember(learned, grads, before, self.rates, self.network)
        updates = respond(learned, grads, slots, seen, self.net(), self.network)
        if self.orthogonalize:
            names = [name for name, u in updates.items() if u.numel()]
            shares = dict(zip(names, share_moved(slots, seen, names).unbind(), strict=True)) if names else {}
            matrices = [name for name in names if updates[name].ndim >= 2]
            for batch in alike([updates[name] for name in matrices]):
                of = [matrices[i] for i in batch]
                looks, share = stacked([updates[name] for name in of]), stacked([shares[name] for name in of])
                steps = orthogonal_steps(looks, share, self.step_scale)
                updates |= {name: steps[i] for i, name in enumerate(of)}
        for name, p in params.items():
            if name not in learned:
                updates[name], slots[name] = self._adamw(p, grads[name], state.slots[name])
        ordered = {name: slots[name] for name in params}
        return {name: updates[name] for name in params}, OptState(state.step + 1, ordered, state.shared)

    def _learns(self, p: Tensor) -> bool:
        return p.ndim >= 2 or self.vectors == "learned"

    def _adamw(
        self, param: Float[Tensor, "*p"], grad: Float[Tensor, "*p"], slot: dict[str, Tensor]
    ) -> tuple[Float[Tensor, "*p"], dict[str, Tensor]]:
        p = working(param)
        grad = grad.to(p.dtype).clamp(-self.max_gradient, self.max_gradient)
        hyper = dict(zip(("rate1", "rate2", "eps"), self.adam.to(p.dtype).unbind(), strict=True))
        direction, slot = adam_direction(grad, slot, hyper)
        return (-self.step_scale * self.vector_multiplier * direction).to(param.dtype), slot

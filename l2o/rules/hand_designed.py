"""Optimizers written by hand as update rules, each with its hyperparameters as theta.

Every hyperparameter h is its constructor's value times exp(log_h), where log_h is learned and starts at 0: positive
values stay positive, and a fresh rule equals the `torch.optim` class of its name step for step. Decays are learned as
1 - decay. A hyperparameter that starts at 0 stays there.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from l2o.rules.base import OptState, UpdateRule, check, working, zero_count, zero_step
from l2o.rules.features import bias_correction, bound, check_decays, safe_sqrt
from l2o.rules.newton_schulz import newton_schulz
from l2o.types import Params

Slot = dict[str, Tensor]
Hyper = dict[str, Tensor]


class HandDesigned(UpdateRule):
    """What the rules of this file share: a step for each tensor by itself, and learnable hyperparameters."""

    large_slots = ("momentum", "m", "v")

    def __init__(self, **values: float) -> None:
        super().__init__()
        for name, value in values.items():
            holds = math.isfinite(value) and value >= 0.0
            check(holds, f"{name} must be finite and >= 0, because its logarithm is learned", **{name: value})
        self._values = dict(values)
        for name in values:
            self.register_parameter(f"log_{name}", nn.Parameter(torch.zeros(())))

    def init(self, params: Params, total_steps: int | Tensor | None = None) -> OptState:
        return OptState(zero_step(params), {name: self.init_slot(p) for name, p in params.items()}, {})

    def forward(
        self, grads: Params, state: OptState, params: Params, loss: Float[Tensor, ""] | None = None
    ) -> tuple[Params, OptState]:
        hyper = {name: value * torch.exp(getattr(self, f"log_{name}")) for name, value in self._values.items()}
        cast: dict[torch.dtype, Hyper] = {}
        updates, slots = {}, {}
        for name, p in params.items():
            x = working(p)
            if x.dtype not in cast:
                cast[x.dtype] = {key: value.to(x.dtype) for key, value in hyper.items()}
                cast[x.dtype]["-lr"] = -cast[x.dtype]["lr"]
            grad = grads[name] if grads[name].dtype == x.dtype else grads[name].to(x.dtype)
            direction, slots[name] = self.direction(x, grad, state.slots[name], cast[x.dtype])
            update = cast[x.dtype]["-lr"] * direction
            updates[name] = update if p.dtype == x.dtype else update.to(p.dtype)
        return updates, OptState(state.step + 1, slots, state.shared)

    def init_slot(self, p: Float[Tensor, "*p"]) -> Slot:
        """State of one tensor."""
        return {}

    @abstractmethod
    def direction(
        self, p: Float[Tensor, "*p"], grad: Float[Tensor, "*p"], slot: Slot, hyper: Hyper
    ) -> tuple[Tensor, Slot]:
        """What a tensor's update is -lr times of, and its next state, given the hyperparameters as they are now."""

    @property
    def hyperparameters(self) -> dict[str, float]:
        """What the rule uses now: the constructor's values until it is trained (decays as 1 - decay)."""
        return {name: v * math.exp(float(getattr(self, f"log_{name}").detach())) for name, v in self._values.items()}

    @property
    def lr(self) -> float:
        """The learning rate."""
        return self.hyperparameters["lr"]

    @property
    def betas(self) -> tuple[float, float]:
        """The decays of the two averages of Adam."""
        now = self.hyperparameters
        return max(0.0, 1.0 - now["rate1"]), max(0.0, 1.0 - now["rate2"])

    # a fixed attribute elsewhere; here it follows the learned rate
    @property
    def nominal_lr(self) -> float:  # type: ignore[override]
        """`lr`: the drop-in's `lr=1.0` is the rule as it stands."""
        return self.lr


class SGD(HandDesigned):
    """update = -lr (g + weight_decay p).

    Arguments:
        lr: learning rate, >= 0.
        weight_decay: L2 penalty, >= 0.
    """

    def __init__(self, lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay)

    def direction(
        self, p: Float[Tensor, "*p"], grad: Float[Tensor, "*p"], slot: Slot, hyper: Hyper
    ) -> tuple[Tensor, Slot]:
        return grad + hyper["weight_decay"] * p if self._values["weight_decay"] else grad, slot


class Momentum(HandDesigned):
    """SGD with momentum in torch's convention: b <- momentum b + g + weight_decay p, update = -lr b.

    Arguments:
        lr: learning rate, >= 0; the step in a constant gradient grows to lr / (1 - momentum).
        momentum: decay of b, in [0, 1).
        nesterov: look ahead, update = -lr (g + momentum b).
        weight_decay: L2 penalty, >= 0.
    """

    def __init__(
        self, lr: float = 1e-3, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 0.0
    ) -> None:
        check_decays(momentum=(momentum,))
        super().__init__(lr=lr, rate=1.0 - momentum, weight_decay=weight_decay)
        self.nesterov = nesterov

    @property
    def momentum(self) -> float:
        """The decay of b."""
        return max(0.0, 1.0 - self.hyperparameters["rate"])

    def init_slot(self, p: Float[Tensor, "*p"]) -> Slot:
        return {"momentum": torch.zeros_like(working(p))}

    def direction(
        self, p: Float[Tensor, "*p"], grad: Float[Tensor, "*p"], slot: Slot, hyper: Hyper
    ) -> tuple[Tensor, Slot]:
        grad = grad + hyper["weight_decay"] * p
        momentum = 1.0 - hyper["rate"].clamp(max=1.0)
        buffer = momentum * slot["momentum"] + grad
        return grad + momentum * buffer if self.nesterov else buffer, {"momentum": buffer}


class Adam(HandDesigned):
    """Adam (Kingma and Ba, 2015, https://arxiv.org/abs/1412.6980): update = -lr m / (sqrt(v) + eps).

    m and v are averages of g and g^2, bias-corrected by each tensor's own number of steps; gradients are bounded where
    their square would not be finite.

    Arguments:
        lr: learning rate, >= 0.
        betas: decays of m and v, in [0, 1).
        eps: >= 0.
        weight_decay: L2 penalty, >= 0, added to the gradient.
    """

    def __init__(
        self, lr: float = 1e-3, betas: Sequence[float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0
    ) -> None:
        super().__init__(lr=lr, **rates_of(betas), eps=eps, weight_decay=weight_decay)

    def init_slot(self, p: Float[Tensor, "*p"]) -> Slot:
        return init_adam(p)

    def direction(
        self, p: Float[Tensor, "*p"], grad: Float[Tensor, "*p"], slot: Slot, hyper: Hyper
    ) -> tuple[Tensor, Slot]:
        return adam_direction(grad + hyper["weight_decay"] * p, slot, hyper)


class AdamW(HandDesigned):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101).

    update = -lr (m / (sqrt(v) + eps) + weight_decay p).

    Arguments:
        lr: learning rate, >= 0.
        betas: decays of m and v, in [0, 1).
        eps: >= 0.
        weight_decay: >= 0; 0.01 as in torch.
    """

    def __init__(
        self, lr: float = 1e-3, betas: Sequence[float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.01
    ) -> None:
        super().__init__(lr=lr, **rates_of(betas), eps=eps, weight_decay=weight_decay)

    def init_slot(self, p: Float[Tensor, "*p"]) -> Slot:
        return init_adam(p)

    def direction(
        self, p: Float[Tensor, "*p"], grad: Float[Tensor, "*p"], slot: Slot, hyper: Hyper
    ) -> tuple[Tensor, Slot]:
        direction, slot = adam_direction(grad, slot, hyper)
        return direction + hyper["weight_decay"] * p, slot


class Muon(HandDesigned):
    """Momentum, orthogonalised, for matrices (Jordan et al., 2024); AdamW for vectors and scalars.

    With b <- momentum b + (1 - momentum) g and O = newton_schulz(b or its look-ahead),

        update = -lr (s O + weight_decay p).

    Tensors of rank above 2 are matrices of their first dimension by all others. Embeddings and output layers, which
    their authors leave to AdamW, are not told apart: a rule does not see names.

    Arguments:
        lr: learning rate of both, >= 0.
        momentum: decay of b, in [0, 1).
        nesterov: orthogonalise (1 - momentum) g + momentum b.
        weight_decay: >= 0, decoupled; 0.1 as in torch.
        num_steps: iterations of Newton-Schulz.
        adjust_lr: `original`: s = sqrt(max(1, rows / columns)); `match_rms_adamw`: s = 0.2 sqrt(max(rows, columns)),
            the step size of Adam (Liu et al., 2025, https://arxiv.org/abs/2502.16982, section 2.2).
        betas, eps: of AdamW.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.1,
        num_steps: int = 5,
        adjust_lr: Literal["original", "match_rms_adamw"] = "original",
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        check_decays(momentum=(momentum,))
        check(num_steps >= 1, "num_steps must be >= 1, because matrices are orthogonalised", num_steps=num_steps)
        known = adjust_lr in ("original", "match_rms_adamw")
        check(known, "adjust_lr must be 'original' or 'match_rms_adamw', the two known scales", adjust_lr=adjust_lr)
        super().__init__(lr=lr, rate=1.0 - momentum, weight_decay=weight_decay, **rates_of(betas), eps=eps)
        self.nesterov, self.num_steps, self.adjust_lr = nesterov, num_steps, adjust_lr

    def init_slot(self, p: Float[Tensor, "*p"]) -> Slot:
        return init_adam(p) if p.ndim < 2 else {"momentum": torch.zeros_like(working(p))}

    def direction(
        self, p: Float[Tensor, "*p"], grad: Float[Tensor, "*p"], slot: Slot, hyper: Hyper
    ) -> tuple[Tensor, Slot]:
        if p.ndim < 2:
            direction, slot = adam_direction(grad, slot, hyper)
        else:
            rate = hyper["rate"].clamp(max=1.0)
            momentum = torch.lerp(slot["momentum"], grad, rate)
            slot = {"momentum": momentum}
            direction = self._orthogonal(torch.lerp(momentum, grad, rate) if self.nesterov else momentum)
        return direction + hyper["weight_decay"] * p, slot

    def _orthogonal(self, b: Float[Tensor, "*p"]) -> Float[Tensor, "*p"]:
        matrix = newton_schulz(b.flatten(1), self.num_steps)
        rows, columns = matrix.shape
        if self.adjust_lr == "original":
            scale = math.sqrt(max(1.0, rows / max(columns, 1)))
        else:
            scale = 0.2 * math.sqrt(max(rows, columns))
        return scale * matrix.view(b.shape)


def rates_of(betas: Sequence[float]) -> dict[str, float]:
    """1 - beta of each, checked."""
    check(len(betas) == 2, "betas must be two numbers, the decays of Adam's two averages", betas=betas)
    check_decays(betas=betas)
    return {"rate1": 1.0 - betas[0], "rate2": 1.0 - betas[1]}


def init_adam(p: Float[Tensor, "*p"]) -> Slot:
    """Adam's state of one tensor."""
    return {"m": torch.zeros_like(working(p)), "v": torch.zeros_like(working(p)), "count": zero_count(p)}


def adam_direction(grad: Float[Tensor, "*p"], slot: Slot, hyper: Hyper) -> tuple[Float[Tensor, "*p"], Slot]:
    """m / (sqrt(v) + eps), both bias-corrected, and the next state; `hyper` holds rate1, rate2 (1 - beta) and eps."""
    grad = bound(grad)
    rate1, rate2 = hyper["rate1"].clamp(max=1.0), hyper["rate2"].clamp(max=1.0)
    count = slot["count"] + 1
    m = torch.lerp(slot["m"], grad, rate1)
    v = torch.lerp(slot["v"], grad.square(), rate2)
    root = safe_sqrt(v) / torch.sqrt(bias_correction(rate2, count))
    direction = m / bias_correction(rate1, count) / (root + hyper["eps"])
    return direction, {"m": m, "v": v, "count": count}

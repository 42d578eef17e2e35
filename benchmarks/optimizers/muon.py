"""Muon with AdamW beside it, in the precision of the parameters: torch's own takes bfloat16, which CPUs lack."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from l2o.rules.alike import alike, stacked
from l2o.rules.newton_schulz import newton_schulz


class Muon(Optimizer):
    """Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/) for hidden matrices, AdamW for the rest.

    With b <- momentum b + (1 - momentum) g, a matrix of m by n moves by

        -lr (0.2 sqrt(max(m, n)) newton_schulz((1 - momentum) g + momentum b) + weight_decay p),

    the size of step of AdamW, so that one learning rate is for both (Liu et al., 2025, https://arxiv.org/abs/2502.16982).

    Arguments:
        matrices: orthogonalised; of rank above 2, as matrices of the first dimension by all others.
        others: for AdamW, with the decays and eps of Muon's authors.
        lr, momentum, weight_decay: as in the formula.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-10,
    ) -> None:
        groups = [{"params": list(matrices), "matrix": True}, {"params": list(others), "matrix": False}]
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "betas": betas, "eps": eps}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                p.mul_(1 - group["lr"] * group["weight_decay"])
            (self._orthogonal if group["matrix"] else self._adam)(params, group)

    def _orthogonal(self, params: list[nn.Parameter], group: dict[str, Any]) -> None:
        directions = []
        for p in params:
            buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
            buffer.lerp_(p.grad, 1 - group["momentum"])
            directions.append(torch.lerp(p.grad, buffer, group["momentum"]).flatten(1))
        for batch in alike(directions):
            found = newton_schulz(stacked([directions[i] for i in batch]))
            for i, step in zip(batch, found, strict=True):
                params[i].add_(step.view_as(params[i]), alpha=-group["lr"] * 0.2 * math.sqrt(max(step.shape)))

    def _adam(self, params: list[nn.Parameter], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        for p in params:
            state = self.state[p]
            if not state:
                state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
            state["step"] += 1
            state["mean"].lerp_(p.grad, 1 - beta1)
            state["square"].lerp_(p.grad.square(), 1 - beta2)
            scale = (state["square"] / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
            p.addcdiv_(state["mean"], scale, value=-group["lr"] / (1 - beta1 ** state["step"]))


def parted(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Hidden matrices; and embeddings, output layers (`head`), vectors and loose parameters."""
    layers = (nn.Linear, nn.RNNBase, nn.MultiheadAttention, nn.modules.conv._ConvNd)
    hidden = {
        id(p)
        for name, module in model.named_modules()
        if isinstance(module, layers) and not any(part.endswith("head") for part in name.split("."))
        for p in module.parameters(recurse=False)
        if p.ndim >= 2
    }
    parameters = list(model.parameters())
    return [p for p in parameters if id(p) in hidden], [p for p in parameters if id(p) not in hidden]

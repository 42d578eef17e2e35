"""MAML++ (Antoniou et al., 2019, https://arxiv.org/abs/1810.09502): rates and normalisation of each step's own.

The loss over all steps is `MultiStepLoss` of the estimators; the cosine schedule is the outer optimizer's.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call

from l2o.learners.base import Fast, loss_of
from l2o.learners.batch_norm import BatchNorm
from l2o.learners.gradient.maml import MAML
from l2o.learners.gradient.meta_sgd import Shapes, check_shapes, in_order
from l2o.rules.base import OptState, UpdateRule, check, zero_step
from l2o.tasks.episodes import Examples
from l2o.types import Params


class StepRates(UpdateRule):
    """update = -rate[step] * gradient, a learned rate for each tensor and step (section 4, LSLR).

    Steps beyond the last known one use its rate.

    Arguments:
        shapes: of the fast variables, see `shapes_of`.
        num_steps: steps with rates of their own.
        lr: all rates at first.
    """

    def __init__(self, shapes: Shapes, num_steps: int = 5, lr: float = 0.01) -> None:
        super().__init__()
        check(num_steps >= 1, "num_steps must be positive, because every step has rates", num_steps=num_steps)
        check(lr >= 0, "lr must not be negative, because steps begin downhill", lr=lr)
        self.shapes, self.num_steps, self.nominal_lr = in_order(shapes), num_steps, lr
        self.rates = nn.Parameter(torch.full((num_steps, len(self.shapes)), lr))

    def init(self, params: Params, total_steps: int | Tensor | None = None) -> OptState:
        check_shapes(self.shapes, params)
        return OptState(zero_step(params), {name: {} for name in params}, {})

    def forward(
        self, grads: Params, state: OptState, params: Params, loss: Float[Tensor, ""] | None = None
    ) -> tuple[Params, OptState]:
        at = state.step.clamp(max=self.num_steps - 1)
        chosen = (torch.arange(self.num_steps, device=at.device) == at).to(self.rates.dtype)  # an index, for vmap
        rates = dict(zip(self.shapes, (chosen @ self.rates).unbind(), strict=True))
        updates = {name: -rates[name].to(p.dtype) * grads[name] for name, p in params.items()}
        return updates, OptState(state.step + 1, state.slots, state.shared)


class MAMLPlusPlus(MAML):
    """MAML with weights and biases of batch normalisation for each step, which the inner loop leaves alone (BNWB).

    Statistics are those of the batch at hand: the authors keep running ones for each step as well, but their code
    never uses them.

    Arguments:
        network: has `BatchNorm` layers, of `batch` statistics.
        num_steps: steps with a normalisation of their own, the start counted besides; further ones use the last.
            `predict` uses the last too: after fewer steps ask `Adaptation.predict`, or `predict_at`.
    """

    # Row k is for predictions after k steps, from which step k + 1 starts. In the authors' code queries after k steps
    # share the row of the support set before them, so that one row less is needed; here a prediction depends only on
    # the steps before it.

    def __init__(self, network: nn.Module, num_steps: int = 5) -> None:
        layers = {name: m for name, m in network.named_modules() if isinstance(m, BatchNorm)}
        if not layers:
            raise ValueError(
                "the network must have BatchNorm layers (l2o.learners.batch_norm), as Conv4 and MLP(norm='batch') do, "
                f"or there is no normalisation to learn for a step; {type(network).__name__} has none."
            )
        running = [name for name, m in layers.items() if m.statistics != "batch"]
        check(not running, "statistics must be the batch's, because every step has others", running=running)
        check(num_steps >= 1, "num_steps must be positive, because every step has a normalisation", num_steps=num_steps)
        super().__init__(network, frozen=tuple(f"{name}." for name in layers))
        self.num_steps, self.layers = num_steps, tuple(layers)
        for m in layers.values():
            m.requires_grad_(False)  # each step has its own
        self.weights, self.biases = (
            nn.ParameterList(nn.Parameter(getattr(m, kind).detach().repeat(num_steps + 1, 1)) for m in layers.values())
            for kind in ("weight", "bias")
        )

    def inner_loss(self, fast: Fast, support: Examples) -> Float[Tensor, ""]:
        return self.inner_loss_at(fast, support, self.num_steps)

    def predict(self, fast: Fast, x: Shaped[Tensor, " n *features"]) -> Float[Tensor, " n *outputs"]:
        return self.predict_at(fast, x, self.num_steps)

    def inner_loss_at(self, fast: Fast, support: Examples, step: int) -> Float[Tensor, ""]:
        return loss_of(self.predict_at(fast, support.x, step), support.y)

    def predict_at(self, fast: Fast, x: Shaped[Tensor, " n *features"], step: int) -> Float[Tensor, " n *outputs"]:
        at = min(step, self.num_steps)
        own = {f"{name}.weight": weight[at] for name, weight in zip(self.layers, self.weights, strict=True)}
        own |= {f"{name}.bias": bias[at] for name, bias in zip(self.layers, self.biases, strict=True)}
        return functional_call(self.network, {**fast, **own}, (x,), tie_weights=self._tied)

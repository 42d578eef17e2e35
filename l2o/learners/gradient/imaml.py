"""Implicit MAML (Rajeswaran et al., 2019, https://arxiv.org/abs/1909.04630)."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from l2o.learners.base import Fast
from l2o.learners.gradient.maml import MAML
from l2o.tasks.episodes import Examples


class IMAML(MAML):
    """MAML whose weights are pulled back to where they start: inner loss + strength / 2 * |fast - slow|^2.

    With order `implicit:n` the gradient to the slow weights is that at the minimum, whatever way led there; it is as
    good as the minimum was reached and as n iterations of conjugate gradients solve for it.

    As in the paper every step is on the whole inner loss. (The authors' code for Omniglot steps on the data alone, is
    pulled back once at the end, and damps the conjugate gradients.)

    Arguments:
        network, adapted, frozen: as of `MAML`.
        strength: lambda of the paper; 2 on Omniglot, 0.5 on miniImageNet.
    """

    def __init__(
        self, network: nn.Module, strength: float = 2.0, adapted: Sequence[str] = (), frozen: Sequence[str] = ()
    ) -> None:
        super().__init__(network, adapted, frozen)
        if not strength > 0:
            raise ValueError(f"strength must be positive, or the slow weights would have no gradient; got {strength}.")
        self.strength = strength

    def inner_loss(self, fast: Fast, support: Examples) -> Float[Tensor, ""]:
        slow = self.start(support)
        distance = sum((value - slow[name]).square().sum() for name, value in fast.items())
        return super().inner_loss(fast, support) + 0.5 * self.strength * distance

"""Prototypical networks (Snell et al., 2017, https://arxiv.org/abs/1703.05175)."""

from __future__ import annotations

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from l2o.learners.answers import class_means
from l2o.learners.base import Fast, Learner, loss_of
from l2o.tasks.episodes import Examples


class PrototypicalNetwork(Learner):
    """Classifies by the squared distance to each class's mean embedding. The fast variables are these means.

    Arguments:
        encoder: maps inputs (n, *features) to embeddings (n, dim).
        way: classes in an episode; None to count them in each support set, which `vmap` cannot.
    """

    def __init__(self, encoder: nn.Module, way: int | None = None) -> None:
        super().__init__()
        self.encoder, self.way = encoder, way

    def start(self, support: Examples) -> Fast:
        return {"prototypes": class_means(self.encoder(support.x), support, self.way)}

    def inner_loss(self, fast: Fast, support: Examples) -> Float[Tensor, ""]:
        return loss_of(self.predict(fast, support.x), support.y)

    def predict(self, fast: Fast, x: Shaped[Tensor, " n *features"]) -> Float[Tensor, "n way"]:
        return -squared_distance(self.encoder(x), fast["prototypes"])


def squared_distance(a: Float[Tensor, "n dim"], b: Float[Tensor, "m dim"]) -> Float[Tensor, "n m"]:
    """|a_i - b_j|^2; `torch.cdist` has no second derivatives."""
    return a.square().sum(-1, keepdim=True) - 2 * a @ b.T + b.square().sum(-1)

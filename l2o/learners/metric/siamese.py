"""Siamese networks (Koch et al., 2015, https://www.cs.cmu.edu/~rsalakhu/papers/oneshot1.pdf)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Generator, Tensor, nn

from l2o.learners.answers import features_of
from l2o.learners.base import Fast, Learner, one_hot, way_of
from l2o.tasks.data.labelled import LabelledDataset
from l2o.tasks.episodes import Examples


class SiameseNetwork(Learner):
    """Says of two inputs whether they are of one class; classifies by asking that of a query and each support example.

        p(same) = sigmoid(sum_j alpha_j |z1_j - z2_j| + bias)

    It is trained for verification: the binary cross-entropy of every query with every class, the pairs that are the
    same weighted as much in total as those that are not. A class's score is the mean log-odds over its examples; of
    one example it is the paper's, which knows no other case and takes the class of the likeliest.

    The fast variables are the support embeddings and the weight of each for each class.

    Arguments:
        encoder: maps inputs (n, *features) to embeddings (n, dim).
        way: classes in an episode; None to count them in each support set, which `vmap` cannot.
        num_features: numbers in an embedding; None for the encoder's `num_features`.
    """

    def __init__(self, encoder: nn.Module, way: int | None = None, num_features: int | None = None) -> None:
        super().__init__()
        self.encoder, self.way = encoder, way
        dim = features_of(encoder, num_features)
        # the paper draws them from both signs; so a fresh network judges by distance, and says that a fair share is the
        # same: after 450 steps on Omniglot, 20-way, 95% of 5-way validation queries are right, with the paper's 86%
        self.alpha = nn.Parameter(torch.full((dim,), -2.0 * dim**-0.5))
        self.bias = nn.Parameter(torch.tensor(0.8 * dim**0.5))

    def start(self, support: Examples) -> Fast:
        z = self.encoder(support.x)
        members = one_hot(support.y, way_of(support, self.way), z)
        return {"references": z, "shares": members / members.sum(0)}

    def inner_loss(self, fast: Fast, support: Examples) -> Float[Tensor, ""]:
        return self.query_loss(fast, support)

    def predict(self, fast: Fast, x: Shaped[Tensor, " n *features"]) -> Float[Tensor, "n way"]:
        return self._log_odds(self.encoder(x).unsqueeze(1), fast["references"]) @ fast["shares"]

    def query_loss(
        self, fast: Fast, query: Examples, prediction: Float[Tensor, "n way"] | None = None
    ) -> Float[Tensor, ""]:
        log_odds = self.predict(fast, query.x) if prediction is None else prediction
        same = one_hot(query.y, log_odds.shape[-1], log_odds)
        return 0.5 * (_mean(F.softplus(-log_odds), same) + _mean(F.softplus(log_odds), 1.0 - same))

    def same(self, x1: Shaped[Tensor, " n *features"], x2: Shaped[Tensor, " n *features"]) -> Float[Tensor, " n"]:
        """The log-odds that each input of `x1` is of the same class as its partner in `x2`."""
        return self._log_odds(*self.encoder(torch.cat([x1, x2])).chunk(2))

    def _log_odds(self, z1: Float[Tensor, "*#n dim"], z2: Float[Tensor, "*#n dim"]) -> Float[Tensor, "*n"]:
        return (z1 - z2).abs() @ self.alpha.to(z1.dtype) + self.bias.to(z1.dtype)


def _mean(x: Float[Tensor, "n way"], weight: Float[Tensor, "n way"]) -> Float[Tensor, ""]:
    return (x * weight).sum() / weight.sum().clamp(min=1.0)


class Pairs(NamedTuple):
    """Inputs, their partners, and whether the two are of one class."""

    x1: Shaped[Tensor, "*n"]
    x2: Shaped[Tensor, "*n"]
    same: Bool[Tensor, " n"]


def pairs(data: LabelledDataset, num: int, generator: Generator) -> Pairs:
    """Pairs of a data set: two examples of one class in the first half, of two classes in the second.

    Raises:
        ValueError: there is no such pair.
    """
    if data.num_classes < 2 or int(data.counts.min()) < 2:
        raise ValueError(
            "pairs need two classes or more, of two examples or more each, so that there are pairs of both kinds; "
            f"{data.name} has {data.num_classes} classes, one of {int(data.counts.min())} examples."
        )
    first = torch.randint(data.num_classes, (num,), generator=generator)
    step = torch.randint(1, data.num_classes, (num,), generator=generator)  # around the circle, but never all the way
    same = torch.arange(num) < (num + 1) // 2
    two = data.draw(first, 2, generator)
    other = data.draw((first + step) % data.num_classes, 1, generator)[:, 0]
    return Pairs(data.select(two[:, 0]), data.select(torch.where(same, two[:, 1], other)), same)


def verification_accuracy(learner: SiameseNetwork, given: Pairs, batch_size: int = 512) -> float:
    """The share of pairs that are judged rightly.

    Arguments:
        batch_size: pairs at a time, which bounds memory.
    """
    with torch.no_grad():
        batches = zip(given.x1.split(batch_size), given.x2.split(batch_size), strict=True)
        judged = torch.cat([learner.same(x1, x2) > 0 for x1, x2 in batches])
    return float((judged == given.same).double().mean())

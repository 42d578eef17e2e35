"""How a model adapts to a support set: the interface of every learner, of all families."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from l2o.configured import Configured
from l2o.learners.transforms import inside_transform
from l2o.tasks.episodes import Episode, Examples

Fast: TypeAlias = dict[str, Tensor]
"""Fast variables: what a learner knows of one task, by name. Any update rule can refine them."""


class Outcome(NamedTuple):
    """What an episode gave: the query loss, and what is reported (see `Learner.judged`); of stacked ones, of each."""

    loss: Float[Tensor, "*b"]
    score: Float[Tensor, "*b"]


class Learner(Configured, ABC):
    """Slow weights in, fast variables out; pure.

    The slow weights are the module's parameters, and nothing else is remembered between episodes: run it with others
    by `torch.func.functional_call`. What `start` returns is the family: weights (MAML), prototypes (metric), a latent,
    generated weights, a prompt.
    """

    @abstractmethod
    def start(self, support: Examples) -> Fast:
        """The family's own feed-forward adaptation: the fast variables before any step."""

    @abstractmethod
    def inner_loss(self, fast: Fast, support: Examples) -> Float[Tensor, ""]:
        """What steps on the fast variables are to lower."""

    @abstractmethod
    def predict(self, fast: Fast, x: Shaped[Tensor, " n *features"]) -> Float[Tensor, " n *outputs"]:
        """Scores of the classes, or values, of inputs."""

    @property
    def vmaps(self) -> bool:
        """Whether many episodes can go through `torch.func.vmap`."""
        return getattr(self, "way", 0) is not None

    @property
    def stacks(self) -> bool:
        """Whether `start`, `predict` and the losses take episodes stacked along leading axes, a loss for each."""
        return False

    @property
    def measure(self) -> str:
        """What the score of values is; that of labels is their accuracy."""
        return "mean squared error"

    def query_loss(
        self, fast: Fast, query: Examples, prediction: Float[Tensor, " n *outputs"] | None = None
    ) -> Float[Tensor, ""]:
        """What the slow weights are to lower.

        Arguments:
            prediction: `predict(fast, query.x)`, where it is known.
        """
        return loss_of(self.predict(fast, query.x) if prediction is None else prediction, query.y)

    def judged(self, fast: Fast, query: Examples, step: int) -> Outcome:
        """The query loss, and the score that is reported, of fast variables that `step` steps have made."""
        prediction = self.predict_at(fast, query.x, step)
        loss = self.query_loss(fast, query, prediction)
        if query.y.is_floating_point() and type(self).query_loss is Learner.query_loss:
            return Outcome(loss, loss.detach())  # the same mean squared error
        return Outcome(loss, score_of(prediction.detach(), query.y))

    def feed_forward(self, episode: Episode) -> Outcome:
        """`judged` without a step, for learners that adapt and judge faster in one pass; also of stacked episodes."""
        return self.judged(self.start(episode.support), episode.query, 0)

    def inner_loss_at(self, fast: Fast, support: Examples, step: int) -> Float[Tensor, ""]:
        """The inner loss after `step` steps, for learners that are not the same at every step."""
        return self.inner_loss(fast, support)

    def predict_at(self, fast: Fast, x: Shaped[Tensor, " n *features"], step: int) -> Float[Tensor, " n *outputs"]:
        """The prediction after `step` steps, for learners that are not the same at every step."""
        return self.predict(fast, x)

    def forward(self, fast: Fast, support: Examples) -> Float[Tensor, ""]:
        """The inner loss: what `functional_call` reaches."""
        return self.inner_loss(fast, support)


def loss_of(prediction: Float[Tensor, " n *outputs"], y: Shaped[Tensor, " n *targets"]) -> Float[Tensor, ""]:
    """Cross-entropy where labels are integers, mean squared error where targets are floats.

    Raises:
        ValueError: targets of another shape than the prediction's, which would be broadcast.
    """
    return _squared_error(prediction, y) if y.is_floating_point() else F.cross_entropy(prediction, y.long())


def score_of(prediction: Float[Tensor, " n *outputs"], y: Shaped[Tensor, " n *targets"]) -> Float[Tensor, ""]:
    """What is reported: accuracy (labels), or mean squared error (targets); nan where a prediction is."""
    if y.is_floating_point():
        return _squared_error(prediction, y)
    return accuracy_of(prediction, y)


def accuracy_of(prediction: Float[Tensor, "*b n way"], y: Shaped[Tensor, "*b n"]) -> Float[Tensor, "*b"]:
    """The share of rows whose highest score is that of their label; nan where a prediction is."""
    right = (prediction.argmax(dim=-1) == y).to(prediction.dtype)
    return torch.where(prediction.isnan().any(-1), float("nan"), right).mean(-1)


def _squared_error(prediction: Float[Tensor, " n *outputs"], y: Float[Tensor, " n *targets"]) -> Float[Tensor, ""]:
    if prediction.shape != y.shape:
        raise ValueError(
            f"targets must have the prediction's shape, or they would be broadcast; got {tuple(y.shape)} for "
            f"{tuple(prediction.shape)}."
        )
    return (prediction - y).square().mean()  # faster under transforms than torch's own, which is decomposed there


def way_of(support: Examples, way: int | None) -> int:
    """The number of classes: `way`, or where that is None one more than the highest label.

    Raises:
        ValueError: way is None within a `torch.func` transform, where labels cannot be looked at.
    """
    if way is not None:
        return way
    if inside_transform():
        raise ValueError(
            "way must be given where many episodes go through vmap, because the number of classes is a shape, and "
            "labels cannot be looked at there; got None."
        )
    return int(support.y.max()) + 1


def one_hot(y: Shaped[Tensor, "*n"], way: int, like: Tensor) -> Float[Tensor, "*n way"]:
    """Labels as rows of zeros and a one, in the dtype of `like`; plain operations, which every transform takes."""
    return (y.unsqueeze(-1) == torch.arange(way, device=y.device)).to(like.dtype)

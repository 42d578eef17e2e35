"""VERSA: amortised weights of a classifier (Gordon et al., 2019, https://arxiv.org/abs/1805.09921)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from l2o.learners.answers import class_means, features_of
from l2o.learners.backbones import MLP
from l2o.learners.base import Fast, Learner, Outcome, loss_of, score_of
from l2o.learners.neural_process.paths import noise, seeds
from l2o.tasks.episodes import Examples


class VERSA(Learner):
    """A network reads each class's mean embedding and gives a normal distribution over its weights and bias.

    What is predicted, and trained, is the mean probability over draws of the weights,

        log 1/L sum_l softmax(z W_l + b_l),   (w, b)_c ~ N(mean(s_c), variance(s_c)),   s_c = mean embedding of class c

    One network serves all classes, so that their number is free. Draws in training differ from episode to episode (by
    normal numbers that are a function of the episode); predictions are always by the same ones.

    The fast variables are the means and log-variances.

    Arguments:
        encoder: maps inputs (n, *features) to embeddings (n, dim).
        way: classes in an episode; None to count them in each support set, which `vmap` cannot.
        hidden: units of the amortisation network's two hidden layers.
        num_samples: L, in training and in predictions; the authors' 10.
        num_features: numbers in an embedding; None for the encoder's `num_features`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        way: int | None = None,
        hidden: int = 128,
        num_samples: int = 10,
        num_features: int | None = None,
    ) -> None:
        super().__init__()
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, or there are no weights; got {num_samples}.")
        self.encoder, self.way, self.num_samples = encoder, way, num_samples
        dim = features_of(encoder, num_features)
        self.mean, self.log_variance = (MLP([dim, hidden, hidden, dim + 1]) for _ in range(2))
        nn.init.zeros_(self.log_variance.head.weight)
        nn.init.constant_(self.log_variance.head.bias, -4.0)  # so that draws begin as weak noise

    def start(self, support: Examples) -> Fast:
        classes = class_means(self.encoder(support.x), support, self.way)
        return {"means": self.mean(classes), "log_variances": self.log_variance(classes)}

    def inner_loss(self, fast: Fast, support: Examples) -> Float[Tensor, ""]:
        return loss_of(self.predict(fast, support.x), support.y)

    def predict(self, fast: Fast, x: Shaped[Tensor, " n *features"]) -> Float[Tensor, "n way"]:
        return self._mixture(fast, x, torch.zeros((), dtype=torch.int64, device=x.device))

    def query_loss(
        self, fast: Fast, query: Examples, prediction: Float[Tensor, "n way"] | None = None
    ) -> Float[Tensor, ""]:
        if self.training:
            prediction = self._mixture(fast, query.x, seeds(query, 0))
        return loss_of(self.predict(fast, query.x) if prediction is None else prediction, query.y)

    def judged(self, fast: Fast, query: Examples, step: int) -> Outcome:
        """By the same draws both, so that the encoder runs once."""
        prediction = self._mixture(fast, query.x, seeds(query, 0)) if self.training else self.predict(fast, query.x)
        return Outcome(loss_of(prediction, query.y), score_of(prediction.detach(), query.y))

    def _mixture(self, fast: Fast, x: Shaped[Tensor, " n *features"], seed: Tensor) -> Float[Tensor, "n way"]:
        """Log of the mean probability, over draws whose normal numbers come from a seed."""
        z = self.encoder(x)
        means, deviations = fast["means"], torch.exp(0.5 * fast["log_variances"])
        drawn = noise(seed, (self.num_samples * len(means), means.shape[1]), means)
        weights = means + deviations * drawn.unflatten(0, (self.num_samples, -1))  # (samples, way, dim + 1)
        scores = z @ weights[..., :-1].mT + weights[..., -1].unsqueeze(-2)  # (samples, n, way)
        return torch.log_softmax(scores, dim=-1).logsumexp(0) - math.log(self.num_samples)

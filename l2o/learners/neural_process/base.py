"""What neural processes have in common: predictions that are distributions, and losses that are likelihoods.

Episodes may be stacked along leading axes (`*b` in shapes), where there is no encoder that knows no such axes.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from l2o.learners.base import Fast, Learner, Outcome, accuracy_of, one_hot
from l2o.tasks.episodes import Examples

Likelihood = Literal["gaussian", "categorical"]


class NeuralProcess(Learner):
    """A distribution over each query's value, given a support set ("context"; queries are "targets").

    What `predict` returns are the numbers of the distribution:

        gaussian       (n, outputs, 2): mean and raw deviation, or (n, samples, outputs, 2) where the prediction is an
                       even mixture; deviation = min_scale + (1 - min_scale) softplus(raw)
        categorical    (n, outputs): log-probabilities of the classes, but for a constant

    `distribution` makes a `torch.distributions.Distribution` of it. The query loss is the mean negative log-likelihood,
    nats per target point.

    Arguments:
        inputs: numbers in an input, or what the encoder gives of it.
        outputs: numbers in a value, or classes.
        likelihood: gaussian for values, categorical for labels.
        min_scale: least deviation. The papers' 0.1 hides noise that is smaller: with the deviation .02 of the usual
            Gaussian processes nobody can then do better than .94 nats, where 1.43 are possible.
        encoder: maps inputs (n, *features) to (n, inputs); None where inputs are as they should be.
    """

    def __init__(
        self, inputs: int, outputs: int, likelihood: str, min_scale: float, encoder: nn.Module | None = None
    ) -> None:
        super().__init__()
        if likelihood not in ("gaussian", "categorical"):
            raise ValueError(f"likelihood must be gaussian or categorical; got {likelihood!r}.")
        if inputs < 1 or outputs < 1:
            raise ValueError(f"inputs and outputs must be positive; got {inputs} and {outputs}.")
        if not 0 <= min_scale < 1:
            raise ValueError(f"min_scale must be at least 0 and less than 1; got {min_scale}.")
        self.inputs, self.outputs, self.encoder = inputs, outputs, encoder
        self.likelihood, self.min_scale = likelihood, min_scale

    @property
    def classifies(self) -> bool:
        """Whether values are labels."""
        return self.likelihood == "categorical"

    @property
    def stacks(self) -> bool:
        return self.encoder is None

    @property
    def measure(self) -> str:
        return "negative log-likelihood"

    def embed(self, x: Shaped[Tensor, "*n"]) -> Float[Tensor, "*b n inputs"]:
        """Inputs as the process reads them."""
        z = x if self.encoder is None else self.encoder(x)
        if z.shape[-1] != self.inputs:
            raise ValueError(f"inputs must have {self.inputs} numbers, as this learner was made; got {z.shape[-1]}.")
        return z

    def deviation(self, raw: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The deviation of a raw one."""
        return self.min_scale + (1 - self.min_scale) * F.softplus(raw)

    def distribution(self, prediction: Float[Tensor, "*n"], mixture: bool | None = None) -> Distribution:
        """The prediction as a distribution over each target point; those of values have them as events.

        Arguments:
            mixture: whether the prediction has an axis of samples; None for what `predict` of this learner gives.
        """
        if self.classifies:
            return Categorical(logits=prediction)
        mean, raw = prediction.unbind(-1)
        normal = Independent(Normal(mean, self.deviation(raw)), 1)
        if not (self.mixes if mixture is None else mixture):
            return normal
        return MixtureSameFamily(Categorical(logits=torch.zeros_like(mean[..., 0])), normal)

    @property
    def mixes(self) -> bool:
        """Whether predictions of values have an axis of samples."""
        return False

    def predictive(self, fast: Fast, x: Shaped[Tensor, "*n"]) -> Distribution:
        """What is said of inputs, as a distribution."""
        return self.distribution(self.predict(fast, x))

    def log_prob(self, prediction: Float[Tensor, "*n"], y: Shaped[Tensor, "*m"]) -> Float[Tensor, "*b n"]:
        """The log-likelihood of each target point: that of `distribution`, in operations that every transform takes."""
        if self.classifies:
            return (torch.log_softmax(prediction, dim=-1) * one_hot(y, self.outputs, prediction)).sum(-1)
        y = y.unsqueeze(-2) if self.mixes else y
        each = self.normal_log_prob(prediction, y)
        return each.logsumexp(-1) - math.log(each.shape[-1]) if self.mixes else each

    def normal_log_prob(
        self, prediction: Float[Tensor, "*n outputs 2"], y: Float[Tensor, "*#n values"]
    ) -> Float[Tensor, "*n"]:
        """The log-likelihood of values by one Gaussian."""
        mean, raw = prediction.unbind(-1)
        if y.shape[-1] != mean.shape[-1]:
            raise ValueError(
                f"a value must have {mean.shape[-1]} numbers, as this learner was made, or they would be broadcast; "
                f"got {y.shape[-1]}."
            )
        scale = self.deviation(raw)
        return (-0.5 * ((y - mean) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def inner_loss(self, fast: Fast, support: Examples) -> Float[Tensor, "*b"]:
        return -_mean(self.log_prob(self.predict(fast, support.x), support.y))

    def query_loss(
        self, fast: Fast, query: Examples, prediction: Float[Tensor, "*n"] | None = None
    ) -> Float[Tensor, "*b"]:
        return -_mean(self.log_prob(self.predict(fast, query.x) if prediction is None else prediction, query.y))

    def judged(self, fast: Fast, query: Examples, step: int) -> Outcome:
        prediction = self.predict_at(fast, query.x, step)
        return self.outcome(self.query_loss(fast, query, prediction), prediction, query)

    def outcome(self, loss: Float[Tensor, "*b"], prediction: Float[Tensor, "*n"], query: Examples) -> Outcome:
        """A loss with its score: accuracy, or the same negative log-likelihood where values are predicted."""
        return Outcome(loss, accuracy_of(prediction.detach(), query.y) if self.classifies else loss.detach())


def _mean(x: Float[Tensor, "*b n"]) -> Float[Tensor, "*b"]:
    """Over the points; 0 where there is none."""
    return x.sum(-1) / max(1, x.shape[-1])

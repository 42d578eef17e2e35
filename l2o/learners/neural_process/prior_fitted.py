"""Prior-fitted networks for tables.

Mueller et al., 2022 (https://arxiv.org/abs/2112.10510); TabPFN: Hollmann et al., 2023 (https://arxiv.org/abs/2207.01848).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from l2o.learners.answers import answers
from l2o.learners.backbones import MLP
from l2o.learners.base import Fast, Outcome
from l2o.learners.neural_process.base import NeuralProcess
from l2o.learners.neural_process.transformer import Tower
from l2o.tasks.episodes import Episode, Examples


class PriorFittedNetwork(NeuralProcess):
    """A transformer over rows: support rows (x, y) see each other, queries see them; the answer is the classes'.

    Trained on tables that are drawn from a prior (`l2o.tasks.SyntheticTables`), it approximates the predictive
    distribution that this prior and the support rows imply, in one pass, for tables that nobody trained it on.
    Columns should be standardised and few ones filled up with zeros and scaled, as `Tables` and `SyntheticTables` do.

    The fast variables are the support's keys and values in each layer.

    Arguments:
        inputs: columns, at most.
        outputs: classes, at most; those that no support row has are hardly ever predicted, as in the prior.
        width: numbers in a token.
        depth: layers.
        heads: of attention.
        hidden: units of the networks in the layers, and of the one that predicts.
        shifts: predictions are the mean over so many renamings of the classes and orders of the columns (cyclic ones),
            which the network does not know to mean nothing; in evaluation only, each costs as much as one prediction.
    """

    def __init__(
        self,
        inputs: int = 100,
        outputs: int = 10,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        hidden: int = 256,
        shifts: int = 1,
    ) -> None:
        super().__init__(inputs, outputs, "categorical", 0.0)
        if shifts < 1:
            raise ValueError(f"shifts must be at least 1, the table as it is; got {shifts}.")
        self.shifts = shifts
        self.rows = MLP([inputs, width, width])
        self.labels = MLP([outputs, width])
        self.tower = Tower(width, depth, heads, hidden)
        self.predictor = MLP([width, hidden, outputs])

    def start(self, support: Examples) -> Fast:
        x = self.embed(support.x)
        y = answers(support.y, self.outputs, x)
        fast: Fast = {}
        for i, (columns, classes) in enumerate(self._orders()):
            tokens = self.rows(x.roll(columns, -1)) + self.labels(y.roll(classes, -1))
            fast |= {f"{name}.{i}" if i else name: seen for name, seen in self.tower.start(tokens).items()}
        return fast

    def predict(self, fast: Fast, x: Shaped[Tensor, "*n"]) -> Float[Tensor, "*m"]:
        z, each = self.embed(x), []
        for i, (columns, classes) in enumerate(self._orders()):
            seen = {f"layer{k}": fast[f"layer{k}.{i}" if i else f"layer{k}"] for k in range(len(self.tower.layers))}
            scores = self.predictor(self.tower.at(seen, self.rows(z.roll(columns, -1))))
            each.append(torch.log_softmax(scores, dim=-1).roll(-classes, -1))
        return each[0] if len(each) == 1 else torch.stack(each).logsumexp(0)

    def feed_forward(self, episode: Episode) -> Outcome:
        if len(self._orders()) > 1:
            return super().feed_forward(episode)
        x, z = self.embed(episode.support.x), self.embed(episode.query.x)
        rows = self.rows(torch.cat([x, z], dim=-2))
        labels = self.labels(answers(episode.support.y, self.outputs, x))
        n = x.shape[-2]
        tokens = rows + F.pad(labels, (0, 0, 0, z.shape[-2]))
        prediction = self.predictor(self.tower.at_once(tokens, n))
        return self.outcome(self.query_loss({}, episode.query, prediction), prediction, episode.query)

    def _orders(self) -> list[tuple[int, int]]:
        """By how much columns and classes are moved around the circle, for each prediction in the mean."""
        num = 1 if self.training else self.shifts
        return [(i * self.inputs // num, i % self.outputs) for i in range(num)]

"""Which demonstrations to show: choosing the prompt is choosing the support set.

random, nearest by embedding (Liu et al., 2022, https://arxiv.org/abs/2101.06804), or by a metric that is learned from
what the language model makes of each demonstration (Rubin et al., 2022, https://arxiv.org/abs/2112.08633).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from l2o.learners.adaptation import Adaptation
from l2o.learners.base import Learner
from l2o.learners.in_context.language_model import LanguageModel
from l2o.tasks.data.text_tasks import Pair
from l2o.tasks.text_episodes import Format, Tokens, encode

Embed = Callable[[Sequence[str]], Float[Tensor, "n size"]]
"""Texts as vectors."""


class Selection(ABC):
    """Chooses demonstrations for one text from a pool; the best one stands last, next to the question."""

    @abstractmethod
    def choose(self, text: str, pool: Sequence[Pair], num: int, generator: Generator) -> list[Pair]:
        """`num` pairs of the pool."""


class RandomSelection(Selection):
    """Any of them."""

    def choose(self, text: str, pool: Sequence[Pair], num: int, generator: Generator) -> list[Pair]:
        _check(pool, num)
        return [pool[i] for i in torch.randperm(len(pool), generator=generator)[:num].tolist()]


class NearestSelection(Selection):
    """Those whose inputs have the most similar embeddings, by cosine.

    Arguments:
        embed: of texts; asked once for each.
        metric: maps embeddings before they are compared; None for none.
    """

    def __init__(self, embed: Embed, metric: nn.Module | None = None) -> None:
        self.embed, self.metric = embed, metric
        self._known: dict[str, Tensor] = {}

    def choose(self, text: str, pool: Sequence[Pair], num: int, generator: Generator) -> list[Pair]:
        _check(pool, num)
        z = self.embedded([text, *(pair.input for pair in pool)])
        with torch.no_grad():
            z = nn.functional.normalize(z if self.metric is None else self.metric(z), dim=-1)
        best = (z[1:] @ z[0]).argsort(descending=True, stable=True)[:num].tolist()
        return [pool[i] for i in reversed(best)]

    def embedded(self, texts: Sequence[str]) -> Float[Tensor, "n size"]:
        """Embeddings of texts, kept."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= dict(zip(new, self.embed(new), strict=True))
        return torch.stack([self._known[text] for text in texts])


def learned_selection(
    adaptation: Adaptation,
    format: Format,
    options: Sequence[str],
    pool: Sequence[Pair],
    embed: Embed,
    generator: Generator,
    steps: int = 200,
    candidates: int = 8,
    size: int = 32,
    lr: float = 3e-3,
    temperature: float = 0.1,
) -> NearestSelection:
    """A selection whose metric prefers the demonstrations after which the model finds the right output likelier.

    Each step draws a pair and candidates for its only demonstration, and moves the softmax of their similarities to
    that of the right output's mean log-likelihoods, over `temperature` both.

    Arguments:
        adaptation: of a `TextLearner` that reads demonstrations.
        pool: pairs to learn from, some more than `candidates`.
        size: numbers that embeddings are mapped to.
    """
    if len(pool) <= candidates:
        raise ValueError(f"the pool must have more than the {candidates} candidates of a step; it has {len(pool)}.")
    base = NearestSelection(embed)
    width = base.embedded([pool[0].input]).shape[1]
    metric = nn.Linear(width, size, bias=False)
    optimizer = torch.optim.Adam(metric.parameters(), lr)
    learner, training = adaptation.learner, adaptation.training
    adaptation.eval()
    for _ in range(steps):
        target, *shown = (pool[i] for i in torch.randperm(len(pool), generator=generator)[: candidates + 1].tolist())
        told = torch.stack([_told(learner, format, options, pair, target) for pair in shown])
        z = nn.functional.normalize(metric(base.embedded([target.input, *(pair.input for pair in shown)])), dim=-1)
        loss = nn.functional.cross_entropy((z[1:] @ z[0] / temperature)[None], (told / temperature).softmax(0)[None])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    adaptation.train(training)
    found = NearestSelection(embed, metric.requires_grad_(False))
    found._known = base._known
    return found


@torch.no_grad()
def _told(learner: Learner, format: Format, options: Sequence[str], shown: Pair, target: Pair) -> Float[Tensor, ""]:
    """The mean log-likelihood of the right output behind one demonstration."""
    support, query = encode(format, options, [shown], [target])
    return -learner.query_loss(learner.start(support), query)


def model_embedding(model: LanguageModel, tokens: Tokens, longest: int = 128, rows_at_once: int = 64) -> Embed:
    """Texts as the mean of the model's last vectors, of unit norm."""

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> Float[Tensor, "n size"]:
        found = []
        for start in range(0, len(texts), rows_at_once):
            ids = [tokens.encode(text)[:longest] or [0] for text in texts[start : start + rows_at_once]]
            length = max(map(len, ids))
            rows = torch.tensor([row + [0] * (length - len(row)) for row in ids])
            there = torch.tensor([[1.0] * len(row) + [0.0] * (length - len(row)) for row in ids]).unsqueeze(-1)
            hidden = model.hidden(rows.to(next(model.parameters()).device)).cpu()
            found.append(nn.functional.normalize((hidden * there).sum(1) / there.sum(1), dim=-1))
        return torch.cat(found)

    return embed


def _check(pool: Sequence[Pair], num: int) -> None:
    if not 0 <= num <= len(pool):
        raise ValueError(f"num must be from 0 to the {len(pool)} pairs of the pool; got {num}.")

"""Episodes from tables: a few rows to learn from, others of the same table to judge by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.tasks.base import choose
from l2o.tasks.data.labelled import LabelledDataset
from l2o.tasks.episodes import Episode, EpisodeFamily, Examples, FewShot


@dataclass(frozen=True)
class Tables(EpisodeFamily):
    """N-way K-shot episodes, each from one of several tables; all of one shape, whatever the tables have.

    Columns are standardised by the support's rows alone, as if nothing else were known; what is missing is put at the
    support's mean. Tables with more columns than `features` give a random choice of them, those with fewer are filled
    up with zeros and scaled, so that the sum of squares stays.

    Arguments:
        tables: where rows come from; a table with too few classes or rows is refused.
        way, shot, query: see `FewShot`.
        features: numbers in an input.
    """

    tables: tuple[LabelledDataset, ...]
    way: int = 2
    shot: int = 10
    query: int = 10
    features: int = 16

    def __post_init__(self) -> None:
        if not self.tables or self.features < 1:
            raise ValueError(
                f"episodes need a table and a feature; got {len(self.tables)} tables, features={self.features}."
            )
        for table in self.tables:
            if len(table.shape) != 1:
                raise ValueError(f"a table's rows must be vectors; those of {table.name} have shape {table.shape}.")
            self._rows(table)

    def sample(self, generator: Generator) -> Episode:
        table = choose(self.tables, generator)
        episode = self._rows(table).sample(generator)
        order = torch.randperm(table.shape[0], generator=generator)[: self.features]
        support, query = standardised(episode.support.x[:, order], episode.query.x[:, order])
        return Episode(
            Examples(self._fitted(support), episode.support.y), Examples(self._fitted(query), episode.query.y)
        )

    def _rows(self, table: LabelledDataset) -> FewShot:
        return FewShot(table, self.way, self.shot, self.query)

    def _fitted(self, x: Float[Tensor, "n columns"]) -> Float[Tensor, "n features"]:
        missing = self.features - x.shape[1]
        return torch.nn.functional.pad(x * (self.features / x.shape[1]) ** 0.5, (0, missing))


def standardised(
    support: Float[Tensor, "n columns"], query: Float[Tensor, "m columns"]
) -> tuple[Float[Tensor, "n columns"], Float[Tensor, "m columns"]]:
    """Both at the support's mean and deviation, nan at the mean; constant columns are zero, extremes cut at 10."""
    known = support.isfinite()
    count = known.sum(0).clamp(min=1)
    mean = torch.where(known, support, 0.0).sum(0) / count
    deviation = (torch.where(known, support - mean, 0.0).square().sum(0) / count).sqrt()
    scale = torch.where(deviation > 0, 1 / torch.where(deviation > 0, deviation, 1.0), 0.0)

    def at(x: Tensor) -> Tensor:
        return torch.where(x.isfinite(), (x - mean) * scale, 0.0).clamp(-10, 10)

    return at(support), at(query)

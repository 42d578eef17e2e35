"""Episodes from tables: a few rows to learn from, others of the same table to judge by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.tasks.base import choose
from l2o.tasks.data.labelled import LabelledDataset
from l2o.tasks.episodes import Episode, EpisodeFamily, Examples, FewShot

EXTREME = 10.0  # deviations; a query may lie far outside what a few support rows showed


@dataclass(frozen=True)
class Tables(EpisodeFamily):
    """N-way K-shot episodes, each from one of several tables; all of one shape, whatever the tables have.

    Columns are standardised by the support's rows alone, as if nothing else were known; what is missing is put at the
    support's mean. Columns are in random order, so that a place means nothing. Tables with more columns than `features`
    give a random choice of them, those with fewer are filled up with zeros and scaled, so that the sum of squares is
    that of `features` columns.

    Arguments:
        tables: where rows come from, each as often; a table with too few classes or rows is refused.
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
            if len(table.shape) != 1 or table.shape[0] < 1:
                raise ValueError(f"a table's rows must be vectors; those of {table.name} have shape {table.shape}.")
            self._rows(table)

    def sample(self, generator: Generator) -> Episode:
        table = choose(self.tables, generator)
        support, query = self._rows(table).sample(generator)
        columns = torch.randperm(table.shape[0], generator=generator)[: self.features]
        x, unseen = standardised(support.x[:, columns], query.x[:, columns])
        return Episode(Examples(self._fitted(x), support.y), Examples(self._fitted(unseen), query.y))

    def _rows(self, table: LabelledDataset) -> FewShot:
        return FewShot(table, self.way, self.shot, self.query)

    def _fitted(self, x: Float[Tensor, "n columns"]) -> Float[Tensor, "n features"]:
        columns = x.shape[1]
        return F.pad(x * (self.features / columns) ** 0.5, (0, self.features - columns))


def standardised(
    support: Float[Tensor, "n columns"], query: Float[Tensor, "m columns"]
) -> tuple[Float[Tensor, "n columns"], Float[Tensor, "m columns"]]:
    """Both at the support's mean and deviation, what is not finite at the mean; cut at 10 deviations.

    Columns that are constant in the support are zero, in the query too: there is nothing to be learned of them.
    """
    known = support.isfinite()
    count = known.sum(0).clamp(min=1)
    # in doubles the mean of equal floats is exact, so a constant column has deviation 0; large squares do not overflow
    seen = torch.where(known, support, 0.0).double()
    mean = seen.sum(0) / count
    deviation = (torch.where(known, seen - mean, 0.0).square().sum(0) / count).sqrt()
    scale = torch.where(deviation > 0, 1 / torch.where(deviation > 0, deviation, 1.0), 0.0)

    def at(x: Tensor) -> Tensor:
        z = torch.where(x.isfinite(), (x - mean) * scale, 0.0)
        return z.clamp(-EXTREME, EXTREME).to(x.dtype)

    return at(support), at(query)

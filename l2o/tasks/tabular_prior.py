"""Tables that nobody has measured: a prior of classification problems, to train on what is like them.

After Hollmann et al. (2023, https://arxiv.org/abs/2207.01848, section 4), whose structural causal models are here
simple random functions: perceptrons, linear ones, trees.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor

from l2o.tasks.episodes import Episode, EpisodeFamily, Examples
from l2o.tasks.tabular import EXTREME

HIDDEN = 16
"""Units of a random perceptron's layers, at most."""
DEPTH = 4
"""Questions of a random tree, at most."""


@dataclass(frozen=True)
class SyntheticTables(EpisodeFamily):
    """Rows of random causes, columns that mix them, labels by a random function of the causes cut into classes.

    For each table: 2 to `features` columns, 2 to `classes` classes of random shares, each column a mixture of a few
    causes (so that columns are correlated, and some say nothing), of which some are rounded to few values (categories),
    stretched (long tails) or blurred; the function is a perceptron of one or two hidden layers, a linear one or a
    tree; labels are noisy. Support and query are of one table, standardised by the support and filled up as `Tables`
    does. Sizes are random, but those of one batch are the same, so that episodes stack.

    Arguments:
        features: columns at most, and numbers in an input.
        classes: at most.
        support: fewest and most rows of a support.
        query: rows of a query.
    """

    features: int = 100
    classes: int = 10
    support: tuple[int, int] = (10, 100)
    query: int = 32

    def __post_init__(self) -> None:
        if self.features < 2 or self.classes < 2:
            raise ValueError(f"there must be 2 features and 2 classes; got {self.features} and {self.classes}.")
        if not 1 <= self.support[0] <= self.support[1] or self.query < 1:
            raise ValueError(
                "support must be from fewest to most rows, and neither it nor the query empty; got "
                f"{self.support} and {self.query}."
            )

    def sample(self, generator: Generator) -> Episode:
        many = self.sample_many(generator, 1)
        return Episode(*(Examples(part.x[0], part.y[0]) for part in many))

    def sample_many(self, generator: Generator, num: int) -> Episode:
        low, high = self.support
        at = int(torch.randint(low, high + 1, (), generator=generator))
        rows = at + self.query
        columns = self._columns(num, generator)
        causes = torch.randn(num, rows, self.features, generator=generator)
        inside = (torch.arange(self.features) < columns.unsqueeze(-1)).float().unsqueeze(1)  # of the table
        y = _labels(_values(causes * inside, columns, generator), self.classes, generator)
        x = _observed(causes, inside, generator)
        x = _standardised(x, at) * inside * (self.features / columns).sqrt().view(-1, 1, 1)
        return Episode(Examples(x[:, :at], y[:, :at]), Examples(x[:, at:], y[:, at:]))

    def _columns(self, num: int, generator: Generator) -> Int[Tensor, " num"]:
        """From 2 up, few more often than many: the logarithm is uniform."""
        span = torch.rand(num, generator=generator)
        return (2 * (self.features / 2 + 0.5) ** span).long().clamp(2, self.features)


def _values(
    causes: Float[Tensor, "num rows features"], columns: Int[Tensor, " num"], generator: Generator
) -> Float[Tensor, "num rows 2"]:
    """Two numbers of each row, by a random function of each table; by these rows are put into classes."""
    num, _, features = causes.shape
    # a few causes matter, others little
    matter = torch.randn(num, features, 1, generator=generator).exp() / columns.view(-1, 1, 1).sqrt()
    weak = torch.rand(num, 1, 1, generator=generator) < 0.5
    matter = matter * torch.where(weak, 1.0, (torch.rand(num, features, 1, generator=generator) < 0.4).float())
    weights = matter * torch.randn(num, features, HIDDEN, generator=generator)
    z = causes @ weights
    linear = z[..., :2]
    bend = 0.3 + 2 * torch.rand(num, 1, 1, generator=generator)
    hidden = torch.tanh(bend * z + torch.randn(num, 1, HIDDEN, generator=generator))
    mixing = torch.randn(num, HIDDEN, HIDDEN, generator=generator) / HIDDEN**0.5
    deeper = torch.relu(bend * hidden @ mixing + 0.5 * torch.randn(num, 1, HIDDEN, generator=generator))
    out = torch.randn(num, HIDDEN, 2, generator=generator) / HIDDEN**0.5
    kinds = torch.stack([linear, hidden @ out, deeper @ out, _trees(causes, matter, generator)])
    kind = torch.randint(len(kinds), (num,), generator=generator)
    chosen = kinds[kind, torch.arange(num)]
    return (chosen - chosen.mean(1, keepdim=True)) / (chosen.std(1, keepdim=True) + 1e-6)


def _trees(
    causes: Float[Tensor, "num rows features"], matter: Float[Tensor, "num features 1"], generator: Generator
) -> Float[Tensor, "num rows 2"]:
    """A value for each of the cells that a few thresholds on single columns make."""
    num, rows, _ = causes.shape
    asked = torch.multinomial(matter.squeeze(-1) + 1e-9, DEPTH, replacement=True, generator=generator)
    threshold = 0.7 * torch.randn(num, 1, DEPTH, generator=generator)
    answers = causes.gather(2, asked.unsqueeze(1).expand(-1, rows, -1)) > threshold
    depth = torch.randint(1, DEPTH + 1, (num, 1, 1), generator=generator)
    answers = answers & (torch.arange(DEPTH) < depth)
    cell = (answers * 2 ** torch.arange(DEPTH)).sum(-1)
    leaves = torch.randn(num, 2**DEPTH, 2, generator=generator)
    return leaves.gather(1, cell.unsqueeze(-1).expand(-1, -1, 2)) + 1e-3 * causes[..., :2]


def _labels(values: Float[Tensor, "num rows 2"], classes: int, generator: Generator) -> Int[Tensor, "num rows"]:
    """Classes by intervals of the first value, or by which of some directions both point in; then noise, and new names.

    Shares are random, but every table has two classes at least (in expectation, not in each support).
    """
    num, rows, _ = values.shape
    # two classes in half of the tables
    most = torch.randint(2, classes + 1, (num, 1), generator=generator)
    most = torch.where(torch.rand(num, 1, generator=generator) < 0.5, 2, most)
    noise = 0.4 * torch.rand(num, 1, 1, generator=generator) ** 2
    values = values + noise * torch.randn(values.shape, generator=generator)
    shares = torch.rand(num, classes, generator=generator) + 0.3
    shares = shares * (torch.arange(classes) < most)
    cuts = (shares / shares.sum(-1, keepdim=True)).cumsum(-1)[:, :-1].contiguous()
    rank = (values[..., 0].argsort(1).argsort(1).float() + 0.5) / rows
    by_interval = torch.searchsorted(cuts, rank)
    pull = torch.randn(num, classes, 2, generator=generator)
    offset = torch.where(torch.arange(classes) < most, 0.3 * torch.randn(num, classes, generator=generator), -torch.inf)
    by_direction = (values @ pull.mT + offset.unsqueeze(1)).argmax(-1)
    intervals = torch.rand(num, 1, generator=generator) < 0.5
    y = torch.where(intervals, by_interval, by_direction).minimum(most - 1)
    # names mean nothing: the first `most` are shuffled among themselves
    order = torch.rand(num, classes, generator=generator)
    order = torch.where(torch.arange(classes) < most, order, 2.0 + torch.arange(classes))
    names = order.argsort(-1)
    wrong = torch.rand(num, rows, generator=generator) < 0.1 * torch.rand(num, 1, generator=generator) ** 2
    other = (torch.rand(num, rows, generator=generator) * most).long().minimum(most - 1)
    return torch.where(wrong, other, names.gather(1, y))


def _observed(
    causes: Float[Tensor, "num rows features"], inside: Float[Tensor, "num 1 features"], generator: Generator
) -> Float[Tensor, "num rows features"]:
    """What the table shows of the causes."""
    num, _, features = causes.shape
    mixing = torch.randn(num, features, features, generator=generator)
    sparse = torch.rand(num, features, features, generator=generator) < 2 / features
    strength = torch.rand(num, 1, 1, generator=generator) ** 2
    x = causes * inside
    x = x + strength * (x @ (mixing * sparse))
    blur = 0.5 * torch.rand(num, 1, features, generator=generator) ** 3
    x = x + blur * torch.randn(x.shape, generator=generator)
    kind = torch.rand(num, 1, features, generator=generator)
    steps = 0.5 + 1.5 * torch.rand(num, 1, features, generator=generator)
    categories = torch.round(x / steps)
    tails = torch.sign(x) * torch.expm1(x.abs().clamp(max=4.0))
    categorical_share = torch.rand(num, 1, 1, generator=generator) ** 2
    x = torch.where(kind < categorical_share, categories, x)
    return torch.where(kind > 0.85, tails, x)


def _standardised(x: Float[Tensor, "num rows features"], at: int) -> Float[Tensor, "num rows features"]:
    """By the first `at` rows, the support's; constant columns are zero. As `l2o.tasks.tabular.standardised`."""
    support = x[:, :at]
    mean = support.mean(1, keepdim=True)
    deviation = (support - mean).square().mean(1, keepdim=True).sqrt()
    scale = torch.where(deviation > 1e-6, 1 / deviation.clamp(min=1e-6), 0.0)
    return ((x - mean) * scale).clamp(-EXTREME, EXTREME)


def filled(x: Float[Tensor, "*n columns"], features: int) -> Float[Tensor, "*n features"]:
    """Standardised rows of another table as those of the prior are: zeros behind, and scaled.

    Raises:
        ValueError: there are more columns than that.
    """
    columns = x.shape[-1]
    if columns > features:
        raise ValueError(f"a table must have at most {features} columns, as the prior's have; got {columns}.")
    return F.pad(x * (features / columns) ** 0.5, (0, features - columns))

"""Tables and graphs: categories and numbers, a regression, a graph of sentences."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from benchmarks.optimizers.problem import Batch, Classification, Problem, some
from l2o.tasks.data import Dataset, Part, banking77, cc18, loader
from l2o.types import seeded

NUMERIC, CATEGORIES = (0, 3), (1, 2, 4, 5, 6, 7, 8)
"""Columns of the table cmc: the wife's age and the number of children, and all others."""


def parted(x: Tensor, y: Tensor, share: float = 0.2) -> tuple[Part, Part]:
    """A random share of the rows for validation."""
    order = torch.randperm(len(x), generator=seeded(0))
    at = round(share * len(x))
    return Part(x[order[at:]], y[order[at:]]), Part(x[order[:at]], y[order[:at]])


@loader
def contraception() -> Dataset:
    """The OpenML-CC18 table cmc: 1,473 families, 3 methods of contraception; numbers at unit scale."""
    table = cc18("cmc")
    train, validation = parted(table.x.clone(), table.y)
    columns = list(NUMERIC)
    mean, deviation = train.x[:, columns].mean(dim=0), train.x[:, columns].std(dim=0)
    for part in (train, validation):
        part.x[:, columns] = (part.x[:, columns] - mean) / deviation
    return Dataset("cmc", train, validation, table.num_classes)


class TabularNetwork(nn.Module):
    """An embedding for each category beside the numbers, then layers with normalisation and dropout."""

    def __init__(self, sizes: list[int], num_classes: int, width: int, embedding: int) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Embedding(size, embedding) for size in sizes)
        fan_in = len(NUMERIC) + embedding * len(sizes)
        self.layers = nn.Sequential(*_dropped(fan_in, width), *_dropped(width, width))
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        codes = x[:, list(CATEGORIES)].long().unbind(-1)
        embedded = [embed(code) for embed, code in zip(self.embed, codes, strict=True)]
        return self.head(self.layers(torch.cat([x[:, list(NUMERIC)], *embedded], dim=-1)))


def _dropped(fan_in: int, fan_out: int) -> tuple[nn.Module, ...]:
    return nn.Linear(fan_in, fan_out), nn.LayerNorm(fan_out), nn.ReLU(), nn.Dropout(0.2)


@dataclass(frozen=True)
class Tabular(Classification):
    """A network of two hidden layers with embeddings of categories and dropout, on cmc."""

    width: int = 64
    embedding: int = 4

    def data(self) -> Dataset:
        return contraception()

    def model(self) -> nn.Module:
        x = torch.cat([part.x for part in (self.data().train, self.data().validation)])[:, list(CATEGORIES)]
        sizes = [int(column.max()) + 1 for column in x.T]
        return TabularNetwork(sizes, self.data().num_classes, self.width, self.embedding)


@lru_cache
def diabetes() -> tuple[Part, Part]:
    """How a disease went on in a year, for 442 patients (Efron et al., 2004); all at unit scale."""
    from sklearn.datasets import load_diabetes

    x, y = (torch.from_numpy(array).float() for array in load_diabetes(return_X_y=True))
    return parted(x / x.std(dim=0), (y - y.mean()) / y.std())


@dataclass(frozen=True)
class Regression(Problem):
    """A perceptron with dropout on the diabetes data, squared error."""

    steps: int = 1000
    batch_size: int = 32
    width: int = 96

    def model(self) -> nn.Module:
        layers = [layer for fan_in in (10, self.width) for layer in _dropped(fan_in, self.width)]
        model = nn.Sequential(*layers)
        model.add_module("head", nn.Linear(self.width, 1))
        return model

    def draw(self, generator: Generator) -> Batch:
        return diabetes()[0].draw(generator, self.batch_size)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        return F.mse_loss(model(x).squeeze(-1), y)

    def held_out(self) -> list[Batch]:
        return some(diabetes()[1])


@dataclass(frozen=True)
class Graph:
    """Sentences joined to their nearest neighbours.

    Arguments:
        x: embeddings, averaged over neighbours once: a graph convolution is linear, so it may average first.
        y: intents.
        source, target, weight: edges, both ways and to oneself, and 1 / sqrt(degree degree).
        part: 0 for nodes that train, 1 for those that validate.
    """

    x: Tensor
    y: Tensor
    source: Tensor
    target: Tensor
    weight: Tensor
    part: Tensor


@lru_cache
def sentences() -> Graph:
    """Every third question to a bank, of 77 intents."""
    parts, start = [banking77("train"), banking77("validation"), banking77("test")], 0
    labels = []
    for part in parts:
        labels.append(part.y + start)
        start += part.num_classes
    return joined(torch.cat([part.x for part in parts]).float()[::3], torch.cat(labels)[::3])


def joined(x: Tensor, y: Tensor, neighbours: int = 6) -> Graph:
    """Each unit vector joined to its nearest; two thirds of them train, the others validate."""
    nearest = (x @ x.T).topk(neighbours + 1, dim=1).indices
    join = torch.zeros(len(x), len(x), dtype=torch.bool).scatter_(1, nearest, True)
    target, source = (join | join.T).nonzero().unbind(1)
    degree = torch.bincount(target).float()
    part = torch.randint(3, (len(x),), generator=seeded(0)) // 2
    graph = Graph(x, y, source, target, (degree[source] * degree[target]).rsqrt(), part)
    return replace(graph, x=x.shape[1] ** 0.5 * _spread(x, graph))


class GraphNetwork(nn.Module):
    """Two graph convolutions with dropout between them (Kipf & Welling, 2017)."""

    def __init__(self, fan_in: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(fan_in, width), nn.Linear(width, num_classes)

    def forward(self, graph: Graph) -> Tensor:
        z = F.relu(self.layer(graph.x))
        return self.head(_spread(F.dropout(z, 0.5, self.training), graph))


def _spread(z: Tensor, graph: Graph) -> Tensor:
    return torch.zeros_like(z).index_add(0, graph.target, graph.weight[:, None] * z[graph.source])


@dataclass(frozen=True)
class GNN(Problem):
    """A graph network on questions of 77 intents joined to their nearest neighbours; all that trains, every step."""

    steps: int = 1000
    width: int = 32

    def model(self) -> nn.Module:
        return GraphNetwork(sentences().x.shape[1], self.width, int(sentences().y.max()) + 1)

    def draw(self, generator: Generator) -> Batch:
        return ((sentences().part == 0).nonzero().squeeze(1),)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        (nodes,) = batch
        return F.cross_entropy(model(sentences())[nodes], sentences().y[nodes])

    def held_out(self) -> list[Batch]:
        return [((sentences().part == 1).nonzero().squeeze(1),)]

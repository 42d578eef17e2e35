"""Relation networks (Sung et al., 2018, https://arxiv.org/abs/1711.06025), and their encoder."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from l2o.configured import Configured
from l2o.learners.base import Fast, Learner, one_hot, way_of
from l2o.learners.batch_norm import Norm, norm_layer
from l2o.learners.convolution import Conv3x3, Precision, convolve, precision_of
from l2o.tasks.episodes import Examples


class RelationEncoder(Configured):
    """Four blocks of 3x3 convolution, normalisation and relu; the first two without padding and halved by pooling.

    Maps of 28 pixels come out with 5: 28, 26, 13, 11, 5 (figure 2 of the paper).

    Arguments:
        width: channels.
        channels: of an image.
        norm: statistics of batch normalisation (see `batch_norm`), or none.
        precision: of the convolutions; weights, statistics and the output stay float32.
    """

    def __init__(
        self, width: int = 64, channels: int = 1, norm: Norm = "running", precision: Precision = "float32"
    ) -> None:
        super().__init__()
        self.precision = precision
        self.convs = nn.ModuleList(
            Conv3x3(channels if i == 0 else width, width, padding=0 if i < 2 else 1) for i in range(4)
        )
        self.norms = nn.ModuleList(norm_layer(width, norm) for _ in range(4))
        _reset(self)

    def forward(self, x: Float[Tensor, "n channels size size"]) -> Float[Tensor, "n width height breadth"]:
        if min(x.shape[-2:]) < 22:
            raise ValueError(
                "images must have at least 22 pixels a side, so that maps of 4 remain after two halvings, which are "
                f"halved again; got {tuple(x.shape[-2:])}."
            )
        z = x
        with precision_of(self.precision, x):
            for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
                z = norm(conv(z))
                # pooling before the relu gives the same as after it, at a quarter of the relu's work
                z = torch.relu(F.max_pool2d(z, 2) if i < 2 else z)
        return z.to(x.dtype)


class RelationNetwork(Learner):
    """A network scores how a query's feature maps, or its vector, relate to a class's, the sum of its examples'.

    Scores are between 0 and 1; as in the paper they are trained by their squared error, 1 for the class and 0 for
    others. The authors' numbers are with the statistics of the batch at hand, in tests too (`norm="batch"`).

    The fast variables are the classes' feature maps or vectors.

    Arguments:
        encoder: maps inputs (n, *features) to feature maps (n, width, size, size), or to vectors (n, num_features).
        way: classes in an episode; None to count them in each support set, which `vmap` cannot.
        width, hidden, size, norm, precision: of the network that scores maps, see `RelationModule`.
        num_features: numbers in an embedding that is a vector, which a `VectorRelation` scores then; None for maps.
    """

    def __init__(
        self,
        encoder: nn.Module,
        way: int | None = None,
        width: int = 64,
        hidden: int = 8,
        size: int = 5,
        norm: Norm = "running",
        precision: Precision = "float32",
        num_features: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.way = encoder, way
        self.relation = (
            RelationModule(width, hidden, size, norm, precision)
            if num_features is None
            else VectorRelation(num_features)
        )

    def start(self, support: Examples) -> Fast:
        maps = self.encoder(support.x)
        members = one_hot(support.y, way_of(support, self.way), maps)
        return {"maps": (members.T @ maps.flatten(1)).unflatten(1, maps.shape[1:])}

    def inner_loss(self, fast: Fast, support: Examples) -> Float[Tensor, ""]:
        return self.query_loss(fast, support)

    def predict(self, fast: Fast, x: Shaped[Tensor, " n *features"]) -> Float[Tensor, "n way"]:
        return self.relation(fast["maps"], self.encoder(x))

    def query_loss(
        self, fast: Fast, query: Examples, prediction: Float[Tensor, "n way"] | None = None
    ) -> Float[Tensor, ""]:
        relations = self.predict(fast, query.x) if prediction is None else prediction
        return (relations - one_hot(query.y, relations.shape[-1], relations)).square().mean()


class RelationModule(nn.Module):
    """Two blocks of 3x3 convolution, normalisation, relu and pooling over [class, query], then two full layers.

    The first convolution over [class, query] is one over the class plus one over the query, so that it goes over
    way + n maps in place of way * n pairs of them.

    Arguments:
        width: channels.
        hidden: units of the first full layer.
        size: pixels of a feature map's side; they are halved twice.
        norm, precision: as of `RelationEncoder`.
    """

    def __init__(self, width: int, hidden: int, size: int, norm: Norm, precision: Precision) -> None:
        super().__init__()
        if size < 4:
            raise ValueError(f"size must be at least 4, because feature maps are halved twice; got {size}.")
        self.precision = precision
        self.conv1, self.conv2 = (Conv3x3(n, width) for n in (2 * width, width))
        self.norm1, self.norm2 = norm_layer(width, norm), norm_layer(width, norm)
        self.full1, self.full2 = nn.Linear(width * (size // 4) ** 2, hidden), nn.Linear(hidden, 1)
        _reset(self)

    def forward(
        self, classes: Float[Tensor, "way width size size"], queries: Float[Tensor, "n width size size"]
    ) -> Float[Tensor, "n way"]:
        of_class, of_query = self.conv1.weight.chunk(2, dim=1)
        with precision_of(self.precision, queries):
            z = convolve(queries, of_query).unsqueeze(1) + convolve(classes, of_class, self.conv1.bias)
            z = torch.relu(F.max_pool2d(self.norm1(z.flatten(0, 1)), 2))
            z = torch.relu(F.max_pool2d(self.norm2(self.conv2(z)), 2))
        z = torch.relu(self.full1(z.to(queries.dtype).flatten(1)))
        return torch.sigmoid(self.full2(z)).view(len(queries), len(classes))


class VectorRelation(nn.Module):
    """Two full layers over [class, query], for embeddings that are vectors (the paper's for zero-shot learning).

    The first goes over way + n vectors in place of way * n pairs, as in `RelationModule`.

    Arguments:
        num_features: numbers in an embedding; the first layer has twice as many units.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        pair = 2 * num_features
        self.full1, self.full2 = nn.Linear(pair, pair), nn.Linear(pair, 1)

    def forward(
        self, classes: Float[Tensor, "way features"], queries: Float[Tensor, "n features"]
    ) -> Float[Tensor, "n way"]:
        of_class, of_query = self.full1.weight.chunk(2, dim=1)
        z = F.linear(queries, of_query).unsqueeze(1) + F.linear(classes, of_class, self.full1.bias)
        return torch.sigmoid(self.full2(torch.relu(z))).squeeze(-1)


def _reset(module: nn.Module) -> None:
    """Initial weights as the authors' code draws them."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            assert m.bias is not None
            nn.init.normal_(m.weight, std=math.sqrt(2 / (9 * m.out_channels)))
            nn.init.zeros_(m.bias)
        elif isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, std=0.01)
            nn.init.ones_(m.bias)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # up to twice as fast on a CPU

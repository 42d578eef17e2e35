"""What learners make of embeddings and answers: numbers that a network can read, means of classes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from l2o.learners.base import one_hot, way_of
from l2o.tasks.episodes import Examples


def answers(y: Shaped[Tensor, " *n"], outputs: int, like: Float[Tensor, "*b n dim"]) -> Float[Tensor, "*b n outputs"]:
    """Labels as rows of zeros and a one, targets as they are; in the dtype of `like`, the embeddings beside them.

    Raises:
        ValueError: targets of another number than `outputs`.
    """
    if not y.is_floating_point():
        return one_hot(y, outputs, like)
    if y.ndim != like.ndim or y.shape[-1] != outputs:
        raise ValueError(
            f"targets must be rows of {outputs} numbers, the learner's outputs, because it reads them beside the "
            f"inputs; got {tuple(y.shape)}."
        )
    return y.to(like.dtype)


def class_means(z: Float[Tensor, "n dim"], support: Examples, way: int | None) -> Float[Tensor, "way dim"]:
    """The mean embedding of each class of a support set; nan for a class without examples.

    Arguments:
        z: embeddings of the support set.
        way: see `way_of`.
    """
    members = one_hot(support.y, way_of(support, way), z)
    return members.T @ z / members.sum(0).unsqueeze(-1)


def features_of(encoder: nn.Module, num_features: int | None = None) -> int:
    """Numbers in an embedding: as given, or the encoder's `num_features`.

    Raises:
        ValueError: neither says it.
    """
    found = getattr(encoder, "num_features", None) if num_features is None else num_features
    if not isinstance(found, int):
        raise ValueError(
            "num_features must be given for an encoder that has no such attribute, because the layers behind it have "
            f"that many inputs; got None for a {type(encoder).__name__}."
        )
    return found


def check_outputs(outputs: int) -> int:
    """The number of classes, or of a target's numbers.

    Raises:
        ValueError: it is not positive.
    """
    if outputs < 1:
        raise ValueError(f"outputs must be at least 1, or there is nothing to predict; got {outputs}.")
    return outputs


def unit_rms(x: Float[Tensor, "*n dim"]) -> Float[Tensor, "*n dim"]:
    """Rows scaled to a mean square of 1; a row of zeros stays one, and has derivatives."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-8)

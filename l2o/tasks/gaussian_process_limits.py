"""The best that can be said of a Gaussian process's values: exact log-likelihoods, with and without its kernel known.

In nats per target point, mean over the points of an episode:

    diagonal    each point by itself, a mixture over kernels where they are integrated over
    gaussian    each point by itself, by the one Gaussian with the mixture's mean and variance
    joint       all points together: log p(y_target | context) / points

All in doubles. With the kernel known by Cholesky factors. Integrals over uniform lengthscale and scale are
Gauss-Legendre sums, doubled until they stand still; one eigendecomposition serves all scales of a lengthscale.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from l2o.tasks.episodes import Episode
from l2o.tasks.gaussian_process import JITTER, GaussianProcess, Hyperparameters, covariances

LOG_2PI = math.log(2 * math.pi)


class Predictive(NamedTuple):
    """What a context says of target points, noise included; log_evidence: the context's own log-likelihood."""

    mean: Float[Tensor, "*n targets"]
    covariance: Float[Tensor, "*n targets targets"]
    log_evidence: Float[Tensor, "*n"]


class Limits(NamedTuple):
    """Log-likelihoods of episodes, nats per target point, see above; error: how far the last doubling moved one."""

    diagonal: Float[Tensor, " episodes"]
    gaussian: Float[Tensor, " episodes"]
    joint: Float[Tensor, " episodes"]
    error: float = 0.0


def posterior(family: GaussianProcess, episodes: Episode, of: Hyperparameters) -> Predictive:
    """Mean and covariance at the queries of stacked episodes, given their supports and kernels."""
    (a, y), (b, _) = ((part.x.double(), part.y.double()) for part in episodes)
    of = Hyperparameters(*(value.double().view(-1, 1, 1) for value in of))
    prior = covariances(family.kernel, b, b, of) + family.noise**2 * torch.eye(b.shape[1]).double()
    seen = covariances(family.kernel, a, a, of) + (family.noise**2 + JITTER) * torch.eye(a.shape[1]).double()
    root = torch.linalg.cholesky(seen)
    whitened = torch.linalg.solve_triangular(root, y, upper=False)
    weights = torch.linalg.solve_triangular(root, covariances(family.kernel, a, b, of), upper=False)
    return Predictive((weights.mT @ whitened).squeeze(-1), prior - weights.mT @ weights, _log_density(root, whitened))


def known(family: GaussianProcess, episodes: Episode, of: Hyperparameters) -> Limits:
    """For whoever knows each episode's kernel."""
    found, y = posterior(family, episodes, of), episodes.query.y.double()
    diagonal = _normal(y.squeeze(-1), found.mean, found.covariance.diagonal(dim1=-2, dim2=-1)).mean(-1)
    root = torch.linalg.cholesky(found.covariance)
    whitened = torch.linalg.solve_triangular(root, y - found.mean.unsqueeze(-1), upper=False)
    return Limits(diagonal, diagonal, _log_density(root, whitened) / y.shape[1])


def integrated(
    family: GaussianProcess, episodes: Episode, tolerance: float = 2e-3, start: int = 16, most: int = 256
) -> Limits:
    """For whoever knows the family only, so integrates over its kernels.

    Arguments:
        tolerance: the sums are doubled until none of the three changes by more for any episode.
        start, most: nodes of the first sum, and of the last that is tried, in either direction.

    Raises:
        ValueError: the sums still move at `most` nodes.
    """
    nodes, found = start, at_nodes(family, episodes, start)
    while nodes < most:
        nodes *= 2
        before, found = found, at_nodes(family, episodes, nodes)
        error = max(float((new - old).abs().max()) for new, old in zip(found[:3], before[:3], strict=True))
        if error <= tolerance:
            return found._replace(error=error)
    raise ValueError(f"the integral must have converged to {tolerance} with {most} nodes; it has not: raise `most`.")


def at_nodes(family: GaussianProcess, episodes: Episode, nodes: int) -> Limits:
    """The sums over so many lengthscales and as many scales."""
    lengthscales, scales = _nodes(family.lengthscale, nodes), _nodes(family.scale, nodes)
    each = [_over_scales(family, episodes, value, scales.values) for value in lengthscales.values]
    evidence, total, means, variances = (torch.stack(parts) for parts in zip(*each, strict=True))
    prior = (lengthscales.log_weights.unsqueeze(1) + scales.log_weights).unsqueeze(-1)  # (lengthscales, scales, 1)
    y = episodes.query.y.double().squeeze(-1)
    log_weights = prior + evidence
    log_z = log_weights.flatten(0, 1).logsumexp(0)
    share = (log_weights - log_z).unsqueeze(-1)
    diagonal = (share + _normal(y, means, variances)).flatten(0, 1).logsumexp(0).mean(-1)
    mean = (share.exp() * means).sum((0, 1))
    variance = (share.exp() * (variances + (means - mean).square())).sum((0, 1))
    joint = ((prior + total).flatten(0, 1).logsumexp(0) - log_z) / y.shape[1]
    return Limits(diagonal, _normal(y, mean, variance).mean(-1), joint)


def without_context(family: GaussianProcess, episodes: Episode, nodes: int = 64) -> Float[Tensor, " episodes"]:
    """For whoever looks at no context: each point by itself, integrated over scales."""
    scales = _nodes(family.scale, nodes)
    variance = (scales.values.square() + family.noise**2).view(-1, 1, 1)
    y = episodes.query.y.double().squeeze(-1)
    return (scales.log_weights.view(-1, 1, 1) + _normal(y, torch.zeros(()), variance)).logsumexp(0).mean(-1)


def clipped(
    family: GaussianProcess, episodes: Episode, of: Hyperparameters, floor: float
) -> Float[Tensor, " episodes"]:
    """The diagonal limit of predictions whose deviation has a floor, kernels known."""
    found = posterior(family, episodes, of)
    variance = found.covariance.diagonal(dim1=-2, dim2=-1).clamp(min=floor**2)
    return _normal(episodes.query.y.double().squeeze(-1), found.mean, variance).mean(-1)


def fixed(family: GaussianProcess) -> Hyperparameters:
    """The kernel of a family that has but one.

    Raises:
        ValueError: it has many.
    """
    if family.lengthscale[0] != family.lengthscale[1] or family.scale[0] != family.scale[1]:
        raise ValueError(f"the family must have one kernel; got {replace(family)}.")
    return Hyperparameters(torch.tensor([family.lengthscale[0]]), torch.tensor([family.scale[0]]))


class _Nodes(NamedTuple):
    values: Float[Tensor, " nodes"]
    log_weights: Float[Tensor, " nodes"]


def _nodes(span: tuple[float, float], num: int) -> _Nodes:
    """Gauss-Legendre nodes of a uniform distribution, a single one where it is a point."""
    low, high = span
    if low == high:
        return _Nodes(torch.tensor([low]).double(), torch.zeros(1).double())
    at, weight = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(num))
    return _Nodes(low + (high - low) * (at + 1) / 2, (weight / 2).log())


def _over_scales(
    family: GaussianProcess, episodes: Episode, lengthscale: Float[Tensor, ""], scales: Float[Tensor, " scales"]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each scale: log-likelihoods of context and of everything, means and variances of targets.

    The covariance s^2 R + noise^2 I has R's eigenvectors whatever the scale s.
    """
    (a, y), (b, y_b) = ((part.x.double(), part.y.double()) for part in episodes)
    of, noise = Hyperparameters(lengthscale, torch.ones(()).double()), family.noise**2
    squares = scales.square().view(-1, 1, 1)
    x = torch.cat([a, b], dim=1)
    roots, vectors = torch.linalg.eigh(covariances(family.kernel, x, x, of))
    total = _evidence(squares * roots.clamp(min=0) + noise, (vectors.mT @ torch.cat([y, y_b], dim=1)).squeeze(-1))
    roots, vectors = torch.linalg.eigh(covariances(family.kernel, a, a, of))
    spectrum = squares * roots.clamp(min=0) + noise  # (scales, episodes, context)
    turned = (vectors.mT @ y).squeeze(-1)
    cross = vectors.mT @ covariances(family.kernel, a, b, of)  # (episodes, context, targets)
    means = squares * torch.einsum("sec,ect->set", turned / spectrum, cross)
    reduction = torch.einsum("sec,ect->set", 1 / spectrum, cross.square())
    variances = squares + noise - squares.square() * reduction
    return _evidence(spectrum, turned), total, means, variances.clamp(min=noise)


def _evidence(
    spectrum: Float[Tensor, "scales episodes n"], turned: Float[Tensor, "episodes n"]
) -> Float[Tensor, "scales episodes"]:
    return -0.5 * (turned.square() / spectrum + spectrum.log() + LOG_2PI).sum(-1)


def _log_density(root: Float[Tensor, "*n k k"], whitened: Float[Tensor, "*n k 1"]) -> Float[Tensor, "*n"]:
    logs = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * whitened.square().sum((-2, -1)) - logs - 0.5 * LOG_2PI * root.shape[-1]


def _normal(y: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return -0.5 * ((y - mean).square() / variance + variance.log() + LOG_2PI)

"""What is known to be good at the function classes: least squares, ridge, lasso, nearest neighbours.

All take support sets stacked along leading axes, compute in doubles, and predict queries. For linear functions with
normal weights and noise, ridge with the noise's variance is the best there is (its Bayes estimate); without noise that
is least squares.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from l2o.tasks.episodes import Examples


def least_squares(support: Examples, x: Float[Tensor, "*b m dim"]) -> Float[Tensor, "*b m 1"]:
    """The shortest of the weights that fit best."""
    a, y = support.x.double(), support.y.double()
    if a.shape[-2] == 0:
        return x.double()[..., :1] * 0.0
    return x.double() @ (torch.linalg.pinv(a) @ y)


def ridge(support: Examples, x: Float[Tensor, "*b m dim"], variance: float) -> Float[Tensor, "*b m 1"]:
    """Least squares with `variance` times the square of the weights added."""
    if not variance > 0:
        raise ValueError(f"variance must be positive, or this is least squares; got {variance}.")
    a, y = support.x.double(), support.y.double()
    gram = a.mT @ a + variance * torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    return x.double() @ torch.linalg.solve(gram, a.mT @ y)


def lasso(support: Examples, x: Float[Tensor, "*b m dim"], alpha: float, sweeps: int = 300) -> Float[Tensor, "*b m 1"]:
    """The weights with least |y - A w|^2 / 2n + alpha |w|_1, by coordinate descent, as scikit-learn's (no intercept).

    Arguments:
        sweeps: over all coordinates, unless none moves any more.
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, or this is least squares; got {alpha}.")
    a, residual = support.x.double(), support.y.double().squeeze(-1)
    n = max(1, a.shape[-2])
    squares = a.square().sum(-2) / n
    w = torch.zeros_like(squares)
    for _ in range(sweeps):
        moved = torch.zeros((), dtype=w.dtype, device=w.device)
        for j in range(w.shape[-1]):
            column = a[..., j]
            pull = (column * residual).sum(-1) / n + squares[..., j] * w[..., j]
            new = pull.sign() * (pull.abs() - alpha).clamp(min=0) / squares[..., j].clamp(min=1e-12)
            step = new - w[..., j]
            residual = residual - column * step.unsqueeze(-1)
            w[..., j] = new
            moved = torch.maximum(moved, step.abs().max())
        if moved < 1e-10:
            break
    return x.double() @ w.unsqueeze(-1)


def nearest(support: Examples, x: Float[Tensor, "*b m dim"], num: int = 3) -> Float[Tensor, "*b m 1"]:
    """The mean value of the `num` nearest points, of all where they are fewer."""
    if num < 1:
        raise ValueError(f"num must be at least 1, because a mean needs a value; got {num}.")
    a, z = support.x.double(), x.double()
    if a.shape[-2] == 0:
        return z[..., :1] * 0.0
    near = torch.cdist(z, a).topk(min(num, a.shape[-2]), largest=False).indices
    y = support.y.double().squeeze(-1).unsqueeze(-2).expand(*near.shape[:-1], -1)
    return y.gather(-1, near).mean(-1, keepdim=True)

"""Linear classifiers fitted to the embeddings of the support set by convex optimisation, inside the network.

Ridge regression: Bertinetto et al., 2019, https://arxiv.org/abs/1805.08136 (R2-D2); support vector machines: Lee et
al., 2019, https://arxiv.org/abs/1904.03758 (MetaOptNet).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from l2o.learners.base import Fast, Learner, loss_of, one_hot, way_of
from l2o.rules.base import working
from l2o.tasks.episodes import Examples


class RidgeHead(Learner):
    """Regresses the labels, as zeros and ones, on the embeddings; scores are scaled by what is learned.

        W, b = argmin mean_i |z_i W + b - y_i|^2 + lambda (|W|^2 + |b|^2),   scores = alpha (z W + b) + beta

    The fast variables are W and b. lambda is learned by its logarithm, so that it stays positive. Without b and with
    beta left at 0 it is MetaOptNet's ridge regression.

    Arguments:
        encoder: maps inputs (n, *features) to embeddings (n, dim).
        way: classes in an episode; None to count them in each support set, which `vmap` cannot.
        regularisation: lambda at first.
        scale: alpha at first. The authors take 10 for 64 numbers (Omniglot), 1e-4 for thousands (miniImageNet).
        bias: whether there is b.
    """

    def __init__(
        self,
        encoder: nn.Module,
        way: int | None = None,
        regularisation: float = 1.0,
        scale: float = 10.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if not regularisation > 0:
            raise ValueError(f"regularisation must be positive, or W may not be unique; got {regularisation}.")
        self.encoder, self.way, self.has_bias = encoder, way, bias
        self.log_lambda = nn.Parameter(torch.tensor(math.log(regularisation)))
        self.alpha, self.beta = nn.Parameter(torch.tensor(float(scale))), nn.Parameter(torch.zeros(()))

    def start(self, support: Examples) -> Fast:
        z = self.encoder(support.x)
        rows = torch.cat([z, torch.ones_like(z[:, :1])], dim=1) if self.has_bias else z
        w = ridge(rows, one_hot(support.y, way_of(support, self.way), z), self.log_lambda.exp())
        return {"weights": w[:-1], "bias": w[-1]} if self.has_bias else {"weights": w}

    def inner_loss(self, fast: Fast, support: Examples) -> Float[Tensor, ""]:
        return loss_of(self.predict(fast, support.x), support.y)

    def predict(self, fast: Fast, x: Shaped[Tensor, " n *features"]) -> Float[Tensor, "n way"]:
        z = self.encoder(x)
        y = z @ fast["weights"] + fast["bias"] if self.has_bias else z @ fast["weights"]
        return self.alpha.to(z.dtype) * y + self.beta.to(z.dtype)


class SVMHead(Learner):
    """A multi-class support vector machine (Crammer and Singer, 2001) on the embeddings.

        W = argmin |W|^2 / 2 + C sum_i max_m (1[m != y_i] + z_i W_m - z_i W_{y_i}),   scores = gamma z W

    The fast variables are W.

    Arguments:
        encoder: maps inputs (n, *features) to embeddings (n, dim).
        way: classes in an episode; None to count them in each support set, which `vmap` cannot.
        cost: C.
        scale: gamma at first; it is learned.
        iterations: of the solver, see `crammer_singer`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        way: int | None = None,
        cost: float = 0.1,
        scale: float = 1.0,
        iterations: int = 50,
    ) -> None:
        super().__init__()
        if not cost > 0 or iterations < 1:
            raise ValueError(f"cost and iterations must be positive; got cost={cost}, iterations={iterations}.")
        self.encoder, self.way, self.cost, self.iterations = encoder, way, cost, iterations
        self.gamma = nn.Parameter(torch.tensor(float(scale)))

    def start(self, support: Examples) -> Fast:
        z = self.encoder(support.x)
        y = one_hot(support.y, way_of(support, self.way), z)
        return {"weights": crammer_singer(z, y, self.cost, self.iterations)}

    def inner_loss(self, fast: Fast, support: Examples) -> Float[Tensor, ""]:
        return loss_of(self.predict(fast, support.x), support.y)

    def predict(self, fast: Fast, x: Shaped[Tensor, " n *features"]) -> Float[Tensor, "n way"]:
        z = self.encoder(x)
        return self.gamma.to(z.dtype) * (z @ fast["weights"])


def ridge(x: Float[Tensor, "n dim"], y: Float[Tensor, "n way"], penalty: Float[Tensor, ""]) -> Float[Tensor, "dim way"]:
    """argmin_W |x W - y|^2 / n + penalty |W|^2, by a system of min(n, dim) equations (Woodbury's identity)."""
    n, dim = x.shape
    a, b = working(x) / math.sqrt(n), working(y) / math.sqrt(n)
    shift = penalty.to(a.dtype) * torch.eye(min(n, dim), dtype=a.dtype, device=a.device)
    w = a.T @ torch.linalg.solve(a @ a.T + shift, b) if n < dim else torch.linalg.solve(a.T @ a + shift, a.T @ b)
    return w.to(x.dtype)


def crammer_singer(
    x: Float[Tensor, "n dim"], y: Float[Tensor, "n way"], cost: float, iterations: int
) -> Float[Tensor, "dim way"]:
    """The weights of a multi-class support vector machine, by the alternating direction method of multipliers.

        min_a |x^T a|^2 / 2 - sum_i a_{i, y_i}   with sum_m a_im = 0 and a_im <= C 1[m = y_i];   W = x^T a

    A fixed number of plain operations, so that every derivative passes through them; the authors have an interior
    point solver, with derivatives by the implicit function theorem at its end. (Accelerated projected gradients need
    ten times the iterations: embeddings that have much in common make this badly conditioned.)
    """
    z, target = working(x), working(y)
    gram = z @ z.T
    # what the embeddings do not have in common; found by trial to be the best penalty, within a factor of 3
    rho = gram.diagonal().mean() - 0.999 * gram.mean() + 1e-9
    inverse = torch.linalg.inv(gram + rho * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
    a = multiplier = torch.zeros_like(target)
    for _ in range(iterations):
        free = inverse @ (target + rho * (a - multiplier))
        moved = multiplier + 1.6 * free - 0.6 * a  # over-relaxed (Boyd et al., 2011, section 3.4.3)
        # what is left of C 1[m = y_i] is not negative and sums to C: a row on a simplex
        a = cost * target - _onto_simplex(cost * target - moved, cost)
        multiplier = moved - a
    return (z.T @ a).to(x.dtype)


def _onto_simplex(v: Float[Tensor, "n way"], total: float) -> Float[Tensor, "n way"]:
    """The nearest rows without negative entries that sum to `total` (Duchi et al., 2008)."""
    sums = v.sort(dim=-1, descending=True).values.cumsum(-1)
    counts = torch.arange(1, v.shape[-1] + 1, dtype=v.dtype, device=v.device)
    return torch.relu(v - ((sums - total) / counts).amax(-1, keepdim=True))

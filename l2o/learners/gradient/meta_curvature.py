"""Meta-Curvature (Park and Oliva, 2019, https://arxiv.org/abs/1902.03356): a learned transformation of gradients."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from l2o.learners.gradient.meta_sgd import Shapes, check_shapes, in_order
from l2o.rules.base import OptState, UpdateRule, check, zero_step
from l2o.types import Params


class MetaCurvature(UpdateRule):
    """update = -lr * (M_out, M_in, M_filter times the gradient), a matrix for each mode of each tensor (section 3.2).

    The modes are outputs, inputs, and all further axes (a filter's positions) as one. Matrices start at the identity,
    so that a fresh rule is SGD.

    Arguments:
        shapes: of the fast variables, see `shapes_of`.
        lr: rate of the transformed gradient, fixed; the matrices can scale it.
    """

    def __init__(self, shapes: Shapes, lr: float = 0.01) -> None:
        super().__init__()
        check(lr >= 0, "lr must not be negative, because the matrices start at the identity", lr=lr)
        self.shapes, self.lr, self.nominal_lr = in_order(shapes), lr, lr
        self.modes = nn.ParameterList(
            nn.Parameter(torch.eye(n)) for shape in self.shapes.values() for n in modes_of(shape)
        )

    def init(self, params: Params, total_steps: int | Tensor | None = None) -> OptState:
        check_shapes(self.shapes, params)
        return OptState(zero_step(params), {name: {} for name in params}, {})

    def forward(
        self, grads: Params, state: OptState, params: Params, loss: Float[Tensor, ""] | None = None
    ) -> tuple[Params, OptState]:
        updates, matrices = {}, iter(self.modes)
        for name, shape in self.shapes.items():
            grad = grads[name].reshape(modes_of(shape))
            for axis, matrix in zip(range(grad.ndim), matrices, strict=False):
                grad = torch.tensordot(matrix.to(grad.dtype), grad, dims=([1], [axis])).movedim(0, axis)
            updates[name] = -self.lr * grad.reshape(params[name].shape)
        updates = {name: updates[name] for name in params}
        return updates, OptState(state.step + 1, state.slots, state.shared)


def modes_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Outputs, inputs, and the rest as one axis; of vectors and scalars what there is.

    The paper speaks of the weights of layers; for biases others (learn2learn) learn the diagonal of the matrix only.
    """
    if len(shape) <= 2:
        return shape or (1,)
    rest = 1
    for n in shape[2:]:
        rest *= n
    return (*shape[:2], rest)

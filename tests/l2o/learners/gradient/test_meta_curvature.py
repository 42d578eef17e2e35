from collections.abc import Iterator
from functools import reduce

import pytest
import torch

from l2o.learners import MAML, MLP, Conv4, MetaCurvature, adapt, shapes_of
from l2o.learners.gradient.meta_curvature import modes_of
from l2o.rules import SGD
from l2o.tasks.episodes import Examples
from l2o.types import seeded

SUPPORT = Examples(torch.randn(6, 3, generator=seeded(0)), torch.randn(6, 1, generator=seeded(1)))
IMAGES = Examples(torch.rand(6, 1, 8, 8, generator=seeded(2)), torch.arange(3).repeat(2))
SHAPES = [(), (5,), (3, 4), (2, 3, 2, 2), (2, 3, 4)]


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    """Networks are the same in every run, whatever runs before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def moved(shape: tuple[int, ...]) -> MetaCurvature:
    rule = MetaCurvature({"w": shape}, lr=0.5).double()
    with torch.no_grad():
        for i, matrix in enumerate(rule.modes):
            matrix += torch.randn(matrix.shape, generator=seeded(i))
    return rule


@pytest.mark.parametrize("images", [False, True])
def test_at_the_identity_it_is_sgd(images: bool) -> None:
    learner, support = (MAML(Conv4(3, width=4, size=8, depth=2)), IMAGES) if images else (MAML(MLP([3, 4, 1])), SUPPORT)
    fast = adapt(learner, MetaCurvature(shapes_of(learner), lr=0.1), support, 3)
    for name, value in adapt(learner, SGD(0.1), support, 3).items():
        torch.testing.assert_close(fast[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_one_matrix_that_is_a_kronecker_product(shape: tuple[int, ...]) -> None:
    """The modes' products are one product with M_out (x) M_in (x) M_filter of the whole gradient (section 3.3)."""
    rule, w = moved(shape), torch.zeros(shape, dtype=torch.float64)
    grad = torch.randn(shape, dtype=torch.float64, generator=seeded(9))
    updates, _ = rule({"w": grad}, rule.init({"w": w}), {"w": w})
    whole = reduce(torch.kron, [matrix.detach() for matrix in rule.modes])
    assert whole.shape == (w.numel(), w.numel())
    torch.testing.assert_close(updates["w"].flatten(), -0.5 * whole @ grad.flatten())


def test_modes_are_outputs_inputs_and_the_positions_of_a_filter() -> None:
    assert [modes_of(shape) for shape in SHAPES] == [(1,), (5,), (3, 4), (2, 3, 4), (2, 3, 4)]


def test_each_tensor_has_matrices_of_its_own() -> None:
    shapes = {"b": (2,), "a": (2, 2)}
    rule = MetaCurvature(shapes, lr=1.0)
    with torch.no_grad():
        rule.modes[2].copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))  # names in order: a has the first two, b this one
    params = {name: torch.zeros(shape) for name, shape in shapes.items()}
    grads = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
    updates, _ = rule(grads, rule.init(params), params)
    assert list(updates) == ["b", "a"]
    torch.testing.assert_close(updates["b"], torch.tensor([-2.0, -1.0]))
    torch.testing.assert_close(updates["a"], -grads["a"])


def test_other_fast_variables_and_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="names and shapes that the rule was made for"):
        adapt(MAML(MLP([3, 5, 1])), MetaCurvature(shapes_of(MAML(MLP([3, 4, 1])))), SUPPORT, 1)
    with pytest.raises(ValueError, match="lr must not be negative"):
        MetaCurvature({"w": (2,)}, lr=-0.1)

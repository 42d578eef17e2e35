import pytest
import torch
from torch.func import grad, hessian

from l2o.tasks import Ackley, ClassicFunctions, Rastrigin, Rosenbrock, StyblinskiTang
from l2o.types import seeded

MINIMA = {Rosenbrock: 0.0, Ackley: 0.0, Rastrigin: 0.0, StyblinskiTang: -39.16617}


@pytest.mark.parametrize("function", MINIMA)
@pytest.mark.parametrize("dim", [2, 5])
def test_known_minimum(function, dim):
    expected = MINIMA[function] * (dim if function is StyblinskiTang else 1)
    task = function.plain(dim, torch.float64)
    best = task.solution()
    assert task.loss(best, None).item() == pytest.approx(expected, abs=1e-4)
    assert grad(task.loss)(best, None)["w"].abs().max() < 1e-3
    assert torch.linalg.eigvalsh(hessian(task.value)(best["w"])).min() > 0


@pytest.mark.parametrize(
    "function, x, value",  # worked out by hand from the textbook formulas
    [
        (Rosenbrock, [0.0, 0.0], 1.0),
        (Rosenbrock, [-1.0, 3.0, 1.0], 400 + 4 + 6400 + 4),
        (Ackley, [1.0, 1.0], 3.6253849384),
        (Rastrigin, [0.5, 1.0], 0.25 + 20 + 1.0),
        (StyblinskiTang, [1.0, 0.0], -5.0),
    ],
)
def test_values_away_from_the_minimum(function, x, value):
    task = function.plain(len(x), torch.float64)
    assert task.loss({"w": torch.tensor(x, dtype=torch.float64)}, None).item() == pytest.approx(value, abs=1e-6)


def test_moving_and_turning_keeps_the_landscape():
    family = ClassicFunctions(dim=(4,), shift=2.0, rotate=True, scale=(3.0, 3.0), dtype=torch.float64)
    for seed in range(6):
        task = family.sample(seeded(seed))
        plain = type(task).plain(4, torch.float64)
        assert task.loss(task.solution(), None).item() == pytest.approx(3 * plain.loss(plain.solution(), None).item())
        start, same_start = task.init(seeded(1)), plain.init(seeded(1))
        torch.testing.assert_close(task.loss(start, None), 3 * plain.loss(same_start, None))
        assert not torch.allclose(start["w"], same_start["w"])


def test_a_start_lies_in_the_usual_box():
    starts = torch.cat([Rastrigin.plain(50).init(seeded(i))["w"] for i in range(20)])
    assert starts.abs().max() <= 5.12
    assert starts.max() > 5 and starts.min() < -5

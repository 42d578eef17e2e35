import pytest
import torch

import l2o.rules.newton_schulz as newton_schulz_module
from l2o.rules.newton_schulz import newton_schulz
from l2o.types import seeded


@pytest.mark.parametrize("shape", [(8, 8), (4, 12), (12, 4), (3, 5, 7)])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e20])
def test_singular_values_come_near_one_at_any_scale(shape: tuple[int, ...], scale: float) -> None:
    matrix = torch.randn(shape, generator=seeded(0))
    found = newton_schulz(matrix * scale)
    values = torch.linalg.svdvals(found)
    condition = torch.linalg.svdvals(matrix)
    kept = condition > 0.05 * condition.amax(-1, keepdim=True)  # five steps lift smaller ones only part of the way
    assert values[kept].min() > 0.6
    assert values.max() < 1.3


def test_singular_vectors_are_kept() -> None:
    matrix = torch.randn(4, 6, generator=seeded(0), dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    core = u.mT @ newton_schulz(matrix) @ v.mT
    torch.testing.assert_close(core, torch.diag(core.diag()), rtol=0, atol=1e-10)
    assert (core.diag() > 0).all()


def test_zeros_stay_zeros_with_finite_derivatives_and_batches_equal_the_loop() -> None:
    batch = torch.randn(3, 4, 2, generator=seeded(0), dtype=torch.float64)
    batch[0] = 0.0
    batch[1, 2] = 0.0
    batch.requires_grad_()
    found = newton_schulz(batch)
    assert not found[0].any()
    assert not found[1, 2].any()
    torch.testing.assert_close(found, torch.stack([newton_schulz(x) for x in batch]))
    first = torch.autograd.grad(found.square().sum(), batch, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), batch)[0]
    assert first.isfinite().all()
    assert second.isfinite().all()


def test_empty_matrices_pass() -> None:
    assert newton_schulz(torch.zeros(3, 0)).shape == (3, 0)


def test_gradients_are_right() -> None:
    matrix = torch.randn(3, 2, generator=seeded(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(newton_schulz, (matrix,))


def test_large_matrices_come_as_near_in_half_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = torch.randn(newton_schulz_module.LARGE, 520, generator=seeded(0), requires_grad=True)
    found = []
    for half in (False, True):
        monkeypatch.setattr(newton_schulz_module, "_has_bfloat16", lambda device, half=half: half)
        y = newton_schulz(matrix)
        (grad,) = torch.autograd.grad(y[0].sum(), matrix)
        assert y.dtype == grad.dtype == torch.float32
        found.append((y.detach(), grad))
    (one, one_grad), (other, other_grad) = found
    assert 0.0 < float((one - other).norm() / one.norm()) < 0.03
    assert float((one_grad - other_grad).norm() / one_grad.norm()) < 0.2

import numpy as np
import pytest
import torch

from l2o.rules.features import (
    NUM_EXTENDED_FEATURES,
    NUM_FEATURES,
    bias_correction,
    factored_dims,
    fraction_features,
    has_moved,
    init_averages,
    rms_scale,
    safe_sqrt,
    stack_features,
    time_features,
    update_averages,
)
from l2o.types import seeded

MOMENTUM, SECOND, FACTORED = (0.9, 0.99, 0.999), (0.999,), (0.9, 0.99, 0.999)


def rates(decays: tuple[float, ...]) -> torch.Tensor:
    return 1.0 - torch.tensor(decays, dtype=torch.float64)


def after(shape: tuple[int, ...], num: int = 3) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """`num` random gradients and the averages after them."""
    grads = [torch.randn(shape, generator=seeded(i), dtype=torch.float64) for i in range(num)]
    slot = init_averages(grads[0])
    for grad in grads:
        slot = update_averages(slot, grad, rates(MOMENTUM), rates(SECOND), rates(FACTORED))
    return grads, slot


def decayed(decay: float, values: list[np.ndarray]) -> np.ndarray:
    average = np.zeros_like(values[0])
    for value in values:
        average = decay * average + (1 - decay) * value
    return average


def test_averages_are_those_of_the_gradient_and_its_square() -> None:
    grads, slot = after((4, 3))
    values = [g.numpy() for g in grads]
    for i, decay in enumerate(MOMENTUM):
        np.testing.assert_allclose(slot["momenta"][i], decayed(decay, values))
    np.testing.assert_allclose(slot["second"][0], decayed(SECOND[0], [v**2 for v in values]))


@pytest.mark.parametrize(
    ("shape", "dims"),
    [((), None), ((7,), None), ((5, 3), (1, 0)), ((4, 4), (0, 1)), ((8, 2, 3, 3), (3, 0)), ((2, 9, 1), (0, 1))],
)
def test_the_two_largest_dimensions_are_factored(shape: tuple[int, ...], dims: tuple[int, int] | None) -> None:
    assert factored_dims(shape) == dims


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (2, 6, 4)])
def test_factored_second_moments_equal_a_plain_reference(shape: tuple[int, ...]) -> None:
    grads, slot = after(shape)
    squares = [g.numpy() ** 2 for g in grads]
    small, large = factored_dims(shape)
    for i, decay in enumerate(FACTORED):
        row = decayed(decay, [s.mean(axis=large, keepdims=True) for s in squares])
        column = decayed(decay, [s.mean(axis=small, keepdims=True) for s in squares])
        np.testing.assert_allclose(slot["row"][i], row)
        np.testing.assert_allclose(slot["column"][i], column)
        preconditioned = grads[-1].numpy() / np.sqrt(row * column / (row.mean(axis=small, keepdims=True) + 1e-9))
        features = stack_features(grads[0], grads[-1], slot)
        np.testing.assert_allclose(features[10 + i], preconditioned, rtol=1e-6)
        np.testing.assert_allclose(features[13 + i], np.broadcast_to(row, shape))
        np.testing.assert_allclose(features[19 + i], 1 / np.sqrt(np.broadcast_to(row, shape) + 1e-8))


def test_a_rank_one_square_is_recovered_exactly() -> None:
    row, column = torch.rand(4, 1).double() + 0.1, torch.rand(1, 6).double() + 0.1
    grad = (row * column).sqrt()
    slot = update_averages(init_averages(grad), grad, rates(MOMENTUM), rates(SECOND), rates(FACTORED))
    features = stack_features(grad, grad, slot)
    expected = torch.ones(3, 4, 6).double() / rates(FACTORED).sqrt().view(3, 1, 1)
    torch.testing.assert_close(features[10:13], expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (5, 1), (4, 3), (2, 3, 4), (2, 3, 3, 3)])
def test_there_are_28_or_30_features_and_4_numbers_of_state_a_coordinate(shape: tuple[int, ...]) -> None:
    grads, slot = after(shape)
    features = stack_features(grads[0], grads[1], slot)
    assert features.shape == (NUM_FEATURES, *shape) == (28, *shape)
    assert (
        stack_features(grads[0], grads[1], slot, extended=True).shape == (NUM_EXTENDED_FEATURES, *shape) == (30, *shape)
    )
    factored = sum(x.numel() for name, x in slot.items() if name in ("row", "column"))
    assert sum(x.numel() for x in slot.values()) - factored == (4 if len(shape) > 1 else 7) * grads[0].numel()
    scaled = features * rms_scale(features, eps=0.0).view(-1, *(1,) * len(shape))
    torch.testing.assert_close(
        scaled.flatten(1).square().mean(1) if shape else scaled.square(), torch.ones(28).double()
    )


def test_only_coordinates_with_a_gradient_have_moved() -> None:
    grad = torch.tensor([0.0, 1e-30, 2.0])
    slot = update_averages(init_averages(grad), grad, *(rates(d).float() for d in (MOMENTUM, SECOND, FACTORED)))
    assert has_moved(slot).tolist() == [False, True, True]


def test_time_and_fraction_features() -> None:
    found = time_features(torch.tensor(10), torch.tensor([1.0, 10.0, 100.0]))
    np.testing.assert_allclose(found, np.tanh([9.0, 0.0, -0.9]), rtol=1e-6, atol=1e-7)
    found = fraction_features(torch.tensor(0.5), torch.tensor([0.4, 0.5, 1.1]))
    np.testing.assert_allclose(found, np.tanh([1.0, 0.0, -6.0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rate", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("count", [1.0, 7.0, 1e5])
def test_bias_correction_keeps_its_digits_in_float32(rate: float, count: float) -> None:
    found = float(bias_correction(torch.tensor(rate), torch.tensor(count)))
    assert found == pytest.approx(1.0 - (1.0 - rate) ** count, rel=1e-6)


def test_the_root_has_finite_derivatives_at_zero() -> None:
    x = torch.tensor([0.0, 1e-30, 4.0], requires_grad=True)
    root = safe_sqrt(x)
    torch.testing.assert_close(root.detach(), torch.tensor([0.0, 0.0, 2.0]), rtol=0, atol=1e-11)
    first = torch.autograd.grad(root.sum(), x, create_graph=True)[0]
    torch.testing.assert_close(first.detach(), torch.tensor([0.0, 0.0, 0.25]))
    assert torch.autograd.grad(first.sum(), x)[0].isfinite().all()

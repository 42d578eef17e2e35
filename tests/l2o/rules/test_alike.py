import pytest
import torch

from l2o.rules.alike import alike, stacked


def test_tensors_of_one_shape_and_precision_are_together(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [
        torch.zeros(3),
        torch.zeros(2, 3),
        torch.ones(3),
        torch.zeros(3).double(),
        torch.ones(2, 3),
        torch.ones(3),
    ]
    assert alike(tensors) == [[0, 2, 5], [1, 4], [3]]
    monkeypatch.setattr("l2o.rules.alike.MOST_ON_CPU", 6)
    assert alike(tensors) == [[0, 2], [1], [3], [4], [5]]
    assert alike([]) == []


def test_a_single_tensor_is_not_copied() -> None:
    x, y = torch.randn(2, 3), torch.randn(2, 3)
    assert stacked([x]).shape == (1, 2, 3) and stacked([x]).data_ptr() == x.data_ptr()
    assert torch.equal(stacked([x, y]), torch.stack([x, y]))

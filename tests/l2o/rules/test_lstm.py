import math

import pytest
import torch

from l2o.rules import LSTMRule
from l2o.rules.lstm import log_gradient, lstm_cell
from l2o.types import seeded


def test_log_gradients_take_the_papers_values() -> None:
    grad = torch.tensor([1.0, -(math.e**2), math.e**-10, -(math.e**-11), 0.0], dtype=torch.float64)
    expected = [[0.0, 1.0], [0.2, -1.0], [-1.0, 1.0], [-1.0, -1 / math.e], [-1.0, 0.0]]
    torch.testing.assert_close(log_gradient(grad).T, torch.tensor(expected, dtype=torch.float64))


def test_the_cell_equals_torch_with_one_added_to_the_forget_bias() -> None:
    cell = torch.nn.LSTMCell(3, 4)
    with torch.no_grad():
        weight = torch.cat([cell.weight_ih, cell.weight_hh], dim=1)
        bias = cell.bias_ih + cell.bias_hh
        bias[4:8] -= 1.0
        x, h, c = (torch.randn(5, size, generator=seeded(0)) for size in (3, 4, 4))
        expected = cell(x, (h, c))
        torch.testing.assert_close(lstm_cell(x.T, h.T, c.T, weight, bias), (expected[0].T, expected[1].T))


def test_rnnprop_does_not_see_the_gradients_scale() -> None:
    rule = LSTMRule(hidden_size=4, inputs="rnnprop")
    params, grad = {"w": torch.ones(5)}, torch.randn(5, generator=seeded(0))
    one, many = (rule({"w": c * grad}, rule.init(params), params)[0]["w"] for c in (1.0, 1e4))
    torch.testing.assert_close(one, many)


def test_every_coordinate_is_moved_alike() -> None:
    rule = LSTMRule(hidden_size=4)
    params = {"w": torch.ones(2, 3), "s": torch.ones(())}
    updates, _ = rule({"w": torch.full((2, 3), 0.7), "s": torch.tensor(0.7)}, rule.init(params), params)
    torch.testing.assert_close(updates["w"], updates["s"].expand(2, 3))


def test_learned_rates_start_as_those_of_sgd_and_are_learned_through_constant_readings() -> None:
    rule = LSTMRule(hidden_size=4, base_lr=0.1)
    params, grad = {"w": torch.ones(5)}, torch.randn(5, generator=seeded(0)).requires_grad_(True)
    step = rule({"w": grad}, rule.init(params), params)[0]["w"]
    torch.testing.assert_close(step, -0.1 * grad, rtol=0.02, atol=0.0)
    by_gradient, by_output = torch.autograd.grad(step.sum(), [grad, rule.output])
    torch.testing.assert_close(by_gradient, step / grad)  # the rate: what the LSTM reads adds nothing
    assert by_output.abs().max() > 0


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"p must be > 0.*got p=0\.0"):
        LSTMRule(p=0.0)
    with pytest.raises(ValueError, match="base_lr must be > 0"):
        LSTMRule(base_lr=-0.1)
    with pytest.raises(ValueError, match="an LSTM needs a unit; got size=0"):
        LSTMRule(hidden_size=0)

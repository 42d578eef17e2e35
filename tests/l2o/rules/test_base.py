import copy
import pickle

import pytest
import torch

from l2o.rules import SGD, LSTMRule, OptState, UpdateRule
from l2o.rules.base import working, zero_count


class Child(SGD):
    """A subclass with arguments of its own, one of them required."""

    def __init__(self, factor: float, *, lr: float = 0.5) -> None:
        super().__init__(lr=factor * lr)


def test_the_config_is_the_arguments_of_the_class_itself_with_defaults() -> None:
    assert LSTMRule(7, p=5.0).config == {
        "hidden_size": 7,
        "num_layers": 2,
        "inputs": "log_gradient",
        "p": 5.0,
        "output_scale": None,
        "base_lr": None,
    }
    rule = Child(3.0)
    assert rule.config == {"factor": 3.0, "lr": 0.5}
    for clone in (copy.deepcopy(rule), pickle.loads(pickle.dumps(rule))):
        assert clone.config == rule.config
        assert clone.lr == rule.lr == 1.5


def test_wrong_arguments_are_told_as_python_does() -> None:
    with pytest.raises(TypeError, match="rate"):
        SGD(rate=1.0)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="factor"):
        Child()  # type: ignore[call-arg]


def test_the_interface_cannot_be_instantiated() -> None:
    with pytest.raises(TypeError, match="abstract"):
        UpdateRule()  # type: ignore[abstract]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_rules_work_in_float32_at_least(dtype: torch.dtype) -> None:
    p = torch.ones(3, dtype=dtype)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert working(p).dtype == zero_count(p).dtype == expected


def test_a_state_is_one_tree_of_tensors() -> None:
    state = LSTMRule().init({"w": torch.zeros(2)})
    assert isinstance(state, OptState)
    assert state.step.dtype == torch.int64

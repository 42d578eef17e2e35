from typing import Any

import pytest
import torch

from l2o.optim import LearnedOptimizer
from l2o.optim.settings import check_arguments
from l2o.rules import SGD, Adam
from tests.toys import parameter


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"lr": -1.0}, "lr must be finite and not negative"),
        ({"lr": float("nan")}, "lr must be finite"),
        ({"lr": torch.ones(2)}, "Tensor lr must be 1-element"),
        ({"weight_decay": -0.1}, "weight_decay must be finite and not negative"),
        ({"total_steps": 0}, "total_steps must be a positive integer"),
        ({"rule": "adan"}, "a name must be one of .*Did you mean 'adam'"),
    ],
)
def test_bad_arguments_are_refused_before_anything_else(kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        LearnedOptimizer([], **({"rule": SGD()} | kwargs))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"lr": -1.0}, "lr must be finite and not negative"),
        ({"lr": torch.tensor(float("inf"))}, "lr must be finite"),
        ({"lr": torch.ones(2)}, "Tensor lr must be 1-element"),
        ({"weight_decay": float("nan")}, "weight_decay must be finite and not negative"),
    ],
)
def test_bad_settings_of_a_group_are_refused(settings: dict[str, Any], match: str) -> None:
    group = {"params": [parameter(1.0)], **settings}
    with pytest.raises(ValueError, match=match):
        LearnedOptimizer([dict(group)], SGD())
    optimizer = LearnedOptimizer([parameter(1.0)], SGD())
    with pytest.raises(ValueError, match=match):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("key", ["lr", "weight_decay"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_schedule_that_is_not_finite_is_refused_at_the_step(key: str, value: float) -> None:
    a, b = parameter(1.0), parameter(2.0)
    optimizer = LearnedOptimizer([{"params": [a]}, {"params": [b]}], SGD(), nonfinite="ignore")
    optimizer.param_groups[1][key] = value
    with pytest.raises(ValueError, match=f"{key} must be finite.*group 1 has {value}"):
        optimizer.step()
    assert (a.item(), b.item()) == (1.0, 2.0) and not optimizer.state


def test_unknown_ways_with_non_finite_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="nonfinite must be one of 'skip', 'clip', 'raise', 'ignore'; got 'hope'"):
        check_arguments(1.0, 0.0, None, "hope", None)  # called by the constructor, whose annotation is checked here


def test_making_an_optimizer_by_name_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    with pytest.warns(UserWarning, match="fresh MLPRule that nobody has trained"):
        optimizers = [LearnedOptimizer([parameter(1.0)], "mlp") for _ in range(2)]
    assert torch.equal(before, torch.get_rng_state())
    left, right = (optimizer.rule.state_dict() for optimizer in optimizers)
    assert all(torch.equal(left[key], right[key]) for key in left)
    # a rule of hand makes no warning, which would be an error here
    assert isinstance(LearnedOptimizer([parameter(1.0)], "adam").rule, Adam)

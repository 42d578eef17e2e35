"""A state dict is loaded: checked against the rule and the parameters first, and kept from torch's casts.

`Optimizer.load_state_dict` casts floating-point tensors of a state to their parameter's dtype, and a rule's state has
dtypes of its own. So every tensor goes through it hidden, and is taken out again at the other end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from l2o.optim.guard import acting_rule
from l2o.optim.members import as_real
from l2o.optim.state import Packed, pack
from l2o.rules.base import OptState, UpdateRule
from l2o.types import Params


def checked_and_hidden(
    state_dict: dict[str, Any], rule: UpdateRule, param_groups: list[dict[str, Any]], total_steps: int | None
) -> dict[str, Any]:
    """A state dict whose tensors are hidden, and found to be this rule's for these parameters.

    Arguments:
        param_groups: of the optimizer that is to have it.

    Raises:
        ValueError: missing or unknown tensors, or other shapes.
    """
    params = [p for group in param_groups for p in group["params"]]
    keys = [key for group in state_dict["param_groups"] for key in group["params"]]
    loaded = {key: state for key, state in state_dict["state"].items() if key in set(keys)}
    if len(params) == len(keys):  # else the base class refuses
        real = {
            str(i): as_real(torch.empty(p.shape, dtype=p.dtype, device="meta"), torch.float32)
            for i, p in enumerate(params)
        }
        packed = {str(i): loaded[key] for i, key in enumerate(keys) if loaded.get(key)}
        check_matches(acting_rule(rule, state_dict["param_groups"]), real, packed, total_steps)
    return {**state_dict, "state": {**state_dict["state"], **hide(loaded)}}


def check_matches(rule: UpdateRule, params: Params, packed: Mapping[str, Packed], total_steps: int | None) -> None:
    """Refuse a loaded state that is not this rule's for these parameters.

    Arguments:
        params: real tensors of the right shapes, on the meta device.
        packed: the loaded dicts, of those parameters that have one.

    Raises:
        ValueError: missing or unknown tensors, or other shapes.
    """
    if not packed:
        return
    expected = _expected_state(rule, {name: params[name] for name in packed}, total_steps)
    for name in packed:
        want, got = pack(name, expected), packed[name]
        faults = [f"{key!r} is missing" for key in want if key not in got]
        faults += [f"{key!r} is unknown" for key in got if key not in want]
        faults += [
            f"{key!r} has shape {tuple(got[key].shape)}, not {tuple(want[key].shape)}"
            for key in want
            if key in got and isinstance(got[key], Tensor) and got[key].shape != want[key].shape
        ]
        if faults:
            raise ValueError(
                f"a loaded state must be that of {type(rule).__name__} with the arguments it has here and of "
                f"parameters of the same shapes; for parameter {name} of shape {tuple(params[name].shape)} "
                f"{', '.join(faults)}."
            )


def _expected_state(rule: UpdateRule, params: Params, total_steps: int | None) -> OptState:
    """A fresh state for its shapes; on the meta device, where the rule's `init` works there."""
    try:
        return rule.init(params, total_steps)
    except (RuntimeError, NotImplementedError):  # init reads values, or mixes in tensors of its own
        return rule.init({name: torch.zeros_like(p, device="cpu") for name, p in params.items()}, total_steps)


@dataclass(frozen=True)
class Hidden:
    """A tensor that `Optimizer.load_state_dict` does not take for one, and so does not cast."""

    value: Any


def hide(state: Mapping[Any, Packed]) -> dict[Any, dict[str, Hidden]]:
    """Every tensor of a state dict in a Hidden."""
    return {i: {key: Hidden(x) for key, x in packed.items()} for i, packed in state.items()}


def unhide(state: Any) -> Any:
    """The tensors again, on the devices of their parameters; what is not hidden stays."""
    for p, packed in state.items():
        if isinstance(p, Tensor):
            state[p] = {key: _tensor(key, x.value, p) if isinstance(x, Hidden) else x for key, x in packed.items()}
    return state


def _tensor(key: str, x: Any, p: Tensor) -> Tensor:
    x = x if isinstance(x, Tensor) else torch.tensor(x)  # some tools keep the step as a number
    # a copy: steps write to averages in place, and what was loaded may be another optimizer's
    return x.to(p.device, torch.int64 if key == "step" else x.dtype, copy=True)

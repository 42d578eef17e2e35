"""A rule's call as one launch: recorded as a CUDA graph, and played back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from l2o.kernels.recording import recording
from l2o.rules.base import OptState
from l2o.rules.coordinates import deferring, now_deferring
from l2o.types import Params, Theta, tree_map

Call = Callable[..., tuple[Params, OptState]]
"""A rule as a function of (theta, grads, state, params, loss)."""


class Graph:
    """A rule's call on tensors of its own memory, for parameters of certain shapes.

    Gradients, loss and what is remembered are copied there and back, so that a step which is not made changes nothing;
    what is left to be brought up to date in place (see `deferring`), or never changes, stays there, and is not copied
    again. The updates are overwritten when the graph is played next.

    Arguments:
        in_place: read parameters where they are, not from copies. The graph then serves these alone, see `serves`.
    """

    def __init__(
        self,
        call: Call,
        theta: Theta,
        grads: Params,
        state: OptState,
        params: Params,
        loss: Tensor | None,
        in_place: bool,
    ) -> None:
        own = tree_map(lambda x: x.clone(memory_format=torch.contiguous_format), (grads, state, params, loss))
        if in_place:
            own = (*own[:2], params, own[3])
        self._theta, self._places, self._in_place = theta, _places(state), in_place
        self._inputs, self._addresses = _leaves(self._places, *own), addresses(params)
        args = (theta, *own)
        wanted = now_deferring() is not None
        device, self._graph = next(iter(params.values())).device, torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            _once_apart(call, args, wanted)
            # a stream of this device: torch's own for graphs is of the device that recorded first.
            # relaxed: while it is recorded, kernels copy tables by a stream of their own
            recorded = torch.cuda.graph(self._graph, stream=torch.cuda.Stream(), capture_error_mode="relaxed")
            with recording() as self._kept, deferring(wanted) as self._deferred, recorded:
                self._updates, self._state = call(*args)
        places = _places(self._state)
        self._outputs = dict(zip(places, _leaves(places, {}, self._state, {}, None), strict=True))
        stands = dict(zip(self._places, self._inputs, strict=False))  # gradients and others come after
        self._stays = {place for place, x in self._outputs.items() if place in stands and _are_one(x, stands[place])}

    def serves(self, params: Params) -> bool:
        """Whether parameters are where the graph reads them."""
        return not self._in_place or self._addresses == addresses(params)

    def __call__(self, grads: Params, state: OptState, params: Params, loss: Tensor | None) -> tuple[Params, OptState]:
        """Updates and new state, as the rule gives them."""
        given = _leaves(self._places, grads, state, params, loss)
        _copy([(to, x) for to, x in zip(self._inputs, given, strict=True) if to.data_ptr() != x.data_ptr()])
        self._graph.replay()
        made = {place: x if place in self._stays else torch.empty_like(x) for place, x in self._outputs.items()}
        _copy([(made[place], x) for place, x in self._outputs.items() if place not in self._stays])
        now = now_deferring()
        if now is not None:
            now.join(self._deferred)
        slots: dict[str, dict[str, Tensor]] = {name: {} for name in self._state.slots}
        shared: dict[str, Tensor] = {}
        for (name, key), x in made.items():
            (shared if name is None else slots[name])[key] = x
        return self._updates, OptState(shared.pop(STEP), slots, shared)


STEP = "step of the run"
"""The place of a state's step; no rule shares anything of that name."""

Place = tuple[str | None, str]
"""Of a tensor in a state: parameter (None for what all share) and key."""


def _places(state: OptState) -> list[Place]:
    places: list[Place] = [(name, key) for name, slot in state.slots.items() for key in slot]
    return [*places, *((None, key) for key in state.shared), (None, STEP)]


def addresses(params: Params) -> list[int]:
    """Where parameters are."""
    return [p.data_ptr() for p in params.values()]


def _leaves(places: list[Place], grads: Params, state: OptState, params: Params, loss: Tensor | None) -> list[Tensor]:
    """All tensors, always in this order."""
    shared = {**state.shared, STEP: state.step}
    of_state = [shared[key] if name is None else state.slots[name][key] for name, key in places]
    return [*of_state, *grads.values(), *params.values(), *([] if loss is None else [loss])]


def _are_one(x: Tensor, y: Tensor) -> bool:
    return x.data_ptr() == y.data_ptr() and x.numel() > 0


def _copy(pairs: list[tuple[Tensor, Tensor]]) -> None:
    if pairs:
        torch._foreach_copy_([to for to, _ in pairs], [x for _, x in pairs])


def _once_apart(call: Call, args: Any, wanted: bool) -> None:
    """A call that comes to nothing, beside the stream of the training: compiles kernels, makes room for libraries."""
    now, apart = torch.cuda.current_stream(), torch.cuda.Stream()
    apart.wait_stream(now)
    with torch.cuda.stream(apart), deferring(wanted):
        call(*args)
    now.wait_stream(apart)

"""Any environment of Gymnasium (https://gymnasium.farama.org), stepped one simulator after the other.

The only import of Gymnasium; `pip install l2o[gym]`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Generator, Tensor

from l2o.agents.environments.base import Box, Discrete, Environment, State, World, check_family


def from_gymnasium(id: str, max_steps: int | None = None, **options: Any) -> Simulated:
    """A family of one world: a registered environment, Minigrid's among them (`pip install l2o[minigrid]`).

    Of a dictionary of observations those are left out that have no fixed size, as Minigrid's texts.

    Arguments:
        id: its name there, as `CartPole-v1`; `module:id` imports the module first, as `minigrid:MiniGrid-Empty-5x5-v0`.
        max_steps: steps in an episode; None for the registered limit, or the simulator's own.
        options: handed to `gymnasium.make`.

    Raises:
        ImportError: Gymnasium is not installed.
        ValueError: unknown id, a space that is not understood, or no limit on steps.
    """
    gymnasium = _gymnasium()
    try:
        one = _made(id, options)
        registered = gymnasium.spec(id.rpartition(":")[2])
        limit = registered.max_episode_steps or getattr(one.unwrapped, "max_steps", None)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise ValueError(f"id must name an environment that Gymnasium can make; got {id!r}: {error}") from error
    most = max_steps or limit
    if most is None:
        raise ValueError(f"max_steps must be given for {id}, because it has no registered limit; got None.")
    found = Simulated(id, int(most), tuple(sorted(options.items())))
    _ = found.action_space, found.observation_size  # told now if they are not understood
    one.close()
    return found


@dataclass(frozen=True)
class Simulated(Environment):
    """Simulators of Gymnasium, as many as a batch has elements, each with a present only: use `from_gymnasium`.

    A state can be gone on from once, and not under `vmap`. Observations are flattened, discrete ones one-hot. Actions
    of a bounded box are scaled: -1 to 1 is from its lower to its upper bound. Where a simulator truncates an episode by
    itself it counts as ended.

    Arguments:
        id, options: for `gymnasium.make`.
        max_steps: steps in an episode.
    """

    id: str
    max_steps: int
    options: tuple[tuple[str, Any], ...] = ()
    _running: _Simulators = field(default_factory=lambda: _Simulators(), repr=False, compare=False)

    reset_noise: ClassVar[int] = 1
    is_pure: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_family(self.max_steps)

    @property
    def observation_size(self) -> int:
        try:
            return int(_gymnasium().spaces.utils.flatdim(self._one.observation_space))
        except (NotImplementedError, ValueError) as error:
            raise ValueError(f"observations must be of fixed size; got {self._one.observation_space}.") from error

    @property
    def action_space(self) -> Discrete | Box:
        space, spaces = self._one.action_space, _gymnasium().spaces
        if isinstance(space, spaces.Discrete):
            return Discrete(int(space.n))
        if isinstance(space, spaces.Box) and bool(space.is_bounded()):
            return Box(math.prod(space.shape))
        raise ValueError(f"actions must be discrete or a bounded box; {self.id} has {space}.")

    @property
    def return_range(self) -> tuple[float, float]:
        return -math.inf, math.inf

    def sample(self, generator: Generator, *shape: int) -> World:
        return {}

    def reset(self, world: World, noise: Float[Tensor, "*batch 1"]) -> State:
        batch = noise.shape[:-1]
        self._running.resize(self, batch.numel())
        return self._begun(torch.ones(batch, dtype=torch.bool), noise, None)

    def step(
        self, world: World, state: State, action: Shaped[Tensor, "..."], noise: Float[Tensor, "*batch 0"]
    ) -> tuple[State, Float[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
        self._check_present(state)
        batch = state["serial"].shape
        actions = action.detach().cpu().reshape(batch.numel(), *action.shape[len(batch) :]).numpy()
        results = [env.step(self._native(env, a)) for env, a in zip(self._running.environments, actions, strict=True)]
        seen, rewards, terminated, truncated, _ = zip(*results, strict=True)
        ended = [bool(a or b) for a, b in zip(terminated, truncated, strict=True)]
        return (
            self._state(seen, batch),
            torch.tensor([float(r) for r in rewards]).view(batch),
            torch.tensor(ended).view(batch),
        )

    def observe(self, world: World, state: State) -> Float[Tensor, "*batch o"]:
        return state["observation"]

    def restart(
        self, world: World, state: State, ended: Bool[Tensor, "*batch"], noise: Float[Tensor, "*batch 1"]
    ) -> State:
        self._check_present(state)
        return self._begun(ended, noise, state) if bool(ended.any()) else state

    def close(self) -> None:
        """End all simulators."""
        self._running.resize(self, 0)

    @property
    def _one(self) -> Any:
        self._running.resize(self, max(1, len(self._running.environments)))
        return self._running.environments[0]

    def _begun(self, which: Bool[Tensor, "*batch"], noise: Float[Tensor, "*batch 1"], state: State | None) -> State:
        """Simulators reset, those that `which` says; the others' observations are the state's."""
        seeds = (noise.double() * 2**31).long().flatten().tolist()
        old: Sequence[Tensor] = () if state is None else state["observation"].flatten(0, -2).unbind()
        seen = [
            env.reset(seed=seed)[0] if fresh else old[i]
            for i, (env, seed, fresh) in enumerate(
                zip(self._running.environments, seeds, which.flatten().tolist(), strict=True)
            )
        ]
        return self._state(seen, which.shape)

    def _state(self, seen: Sequence[Any], batch: torch.Size) -> State:
        flatten, space = _gymnasium().spaces.utils.flatten, self._one.observation_space
        rows = [x if isinstance(x, Tensor) else torch.from_numpy(flatten(space, x)).float() for x in seen]
        self._running.serial += 1
        serial = torch.full(batch, self._running.serial)
        return {"observation": torch.stack(rows).view(*batch, -1), "serial": serial}

    def _native(self, env: Any, action: Any) -> Any:
        """An action as the simulator takes it."""
        space = env.action_space
        if hasattr(space, "start"):  # discrete
            return int(action) + int(space.start)
        unit = (action.clip(-1.0, 1.0).reshape(space.shape) + 1.0) / 2.0
        return (space.low + (space.high - space.low) * unit).astype(space.dtype)

    def _check_present(self, state: State) -> None:
        serial = state["serial"]
        if torch._C._functorch.is_batchedtensor(serial):
            raise ValueError(f"{self.id} runs in simulators, which vmap cannot call; step it outside of vmap.")
        if not bool((serial == self._running.serial).all()):
            raise ValueError(
                f"a state of {self.id} can be gone on from once, because its simulators have a present only; got an "
                "older one (two batches at a time need two `from_gymnasium`)."
            )


class _Simulators:
    """What runs now, not taken along in copies and pickles."""

    def __init__(self) -> None:
        self.environments: list[Any] = []
        self.serial = 0

    def resize(self, family: Simulated, num: int) -> None:
        """Have so many simulators."""
        while len(self.environments) > num:
            self.environments.pop().close()
        while len(self.environments) < num:
            self.environments.append(_made(family.id, dict(family.options)))

    def __reduce__(self) -> tuple[type[_Simulators], tuple[()]]:
        return _Simulators, ()


def _made(id: str, options: dict[str, Any]) -> Any:
    """A simulator without a time limit, with what it shows in numbers."""
    gymnasium = _gymnasium()
    made = gymnasium.make(id, max_episode_steps=-1, **options)
    space = made.observation_space
    if isinstance(space, gymnasium.spaces.Dict):
        kept = [name for name, part in space.items() if _is_flat(part)]
        if 0 < len(kept) < len(space):
            made = gymnasium.wrappers.FilterObservation(made, kept)
    return made


def _is_flat(space: Any) -> bool:
    try:
        return bool(_gymnasium().spaces.utils.flatdim(space))
    except (NotImplementedError, ValueError):
        return False


def _gymnasium() -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError("from_gymnasium needs Gymnasium: pip install 'l2o[gym]'") from error
    return gymnasium

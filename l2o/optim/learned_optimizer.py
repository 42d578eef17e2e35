"""The drop-in itself: LearnedOptimizer."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from l2o.load import is_untrained, load
from l2o.optim.processes import gather_state, local, mean_over_processes, part_like, shard_state
from l2o.optim.proposal import Member, Proposal, as_real, fault_of, scalar
from l2o.optim.runner import Runner
from l2o.optim.state import Packed, check_matches, gather, hide, narrowed, owned, pack, unhide, widened
from l2o.rules.base import UpdateRule
from l2o.rules.coordinates import deferring

DEFAULT = "default"
"""The name of the optimizer that is taken where no rule is given."""


class LearnedOptimizer(Optimizer):
    """Trains with an update rule in place of a hand-made formula:

        p <- p + lr * (update - nominal_lr * weight_decay * p)

    One call of the rule a step moves all parameters with gradients, of all groups. Half-precision parameters are
    computed with and remembered in float32, float64 ones in float64, complex ones as pairs of reals; sparse gradients
    are made dense. Sharded parameters (FSDP2's, other DTensors) are gathered for the call, their state stays in shards.

    A step whose gradients, loss, updates or new state are not finite changes nothing (see `nonfinite`). That guard
    looks at nothing else. An `lr` or `weight_decay` that is a number and not finite is an error, whatever `nonfinite`
    says; a tensor `lr` is looked at when its group is made and never again; finite steps may overflow a parameter.

    Arguments:
        params: parameters, named parameters or groups, as for every torch.optim optimizer. Groups may set their own
            `lr`, `weight_decay` and `maximize`.
        rule: an update rule, or what `l2o.load` takes: a run folder, a saved file or a name. Left out, the optimizer
            in the box, `default`, which wants `total_steps`.
        lr: multiplies the whole step, weight decay included; 1 is what the rule was trained for, 0 changes nothing.
        weight_decay: shrinks a parameter by `lr * nominal_lr * weight_decay` a step: the value that AdamW would take.
        total_steps: planned length of the run, for rules that follow a schedule.
        maximize: ascend.
        nonfinite: `skip` leaves the whole step out, counts it in `skipped_steps` and warns once; `raise` raises
            FloatingPointError; `ignore` does not look, which spares a GPU one synchronisation a step.
        compile: fuse the rule with `torch.compile`; the first step then takes longer, for each of up to eight sets of
            parameters that have gradients (see `torch._dynamo.config.recompile_limit`).
        state_dtype: torch.bfloat16 halves the memory of what the rule remembers of each coordinate (its `large_slots`),
            rounded at random so that nothing is lost on average; None keeps the precision that is computed with.
        average_loss: where torch.distributed runs, take the mean loss of all processes, as replicas that saw losses of
            their own would drift apart; all must then give one, or none. False: each has a network of its own.

    Raises:
        ValueError: an argument or a group's setting is out of range, or the rule's name is unknown.
    """

    def __init__(
        self,
        params: Iterable[Any],
        rule: UpdateRule | str | os.PathLike[str] = DEFAULT,
        lr: float | Tensor = 1.0,
        weight_decay: float = 0.0,
        *,
        total_steps: int | None = None,
        maximize: bool = False,
        nonfinite: Literal["skip", "raise", "ignore"] = "skip",
        compile: bool = False,
        state_dtype: torch.dtype | None = None,
        average_loss: bool = True,
    ) -> None:
        _check_arguments(lr, weight_decay, total_steps, nonfinite, state_dtype)
        self.rule = rule if isinstance(rule, UpdateRule) else _load_rule(rule)
        self.total_steps, self.nonfinite, self.compile = total_steps, nonfinite, compile
        self.state_dtype, self.average_loss = state_dtype, average_loss
        self.skipped_steps = 0
        self._forget()
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "maximize": maximize})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Train more parameters, from fresh state.

        Raises:
            ValueError: the group's `lr` or `weight_decay` is out of range, or a parameter is in another group.
        """
        if isinstance(param_group, dict):  # else the base class refuses
            settings = {**self.defaults, **param_group}
            _check_group(settings["lr"], settings["weight_decay"])
        super().add_param_group(param_group)

    @torch.compiler.disable  # inside of a compiled function too the rule runs on its kernels, or compiled on its own
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, loss: Any = None) -> Any:
        """Move the parameters once.

        Arguments:
            closure: evaluates the model again, with gradients, and returns the loss.
            loss: the loss of this step, for rules that make use of it; not beside a closure, which returns it.

        Returns:
            the loss, if one was given.

        Raises:
            FloatingPointError: something is not finite, and `nonfinite` is `raise`.
            ValueError: a group's `lr` or `weight_decay` is a number and not finite; nothing is changed.
        """
        self._check_settings()
        if closure is not None:
            if loss is not None:
                raise ValueError("step takes a closure or a loss, because a closure returns the loss; got both.")
            with torch.enable_grad():
                loss = closure()
        proposals = [self._propose(members, loss) for members in self._by_device()]
        fault = None if self.nonfinite == "ignore" else next(filter(None, map(fault_of, proposals)), None)
        if fault is not None:
            self._refuse(fault)
            return loss
        for proposal in proposals:
            self._commit(proposal)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state exactly, dtypes included; the rule itself is not part of it.

        Raises:
            ValueError: it belongs to another rule or to other parameters; nothing is changed then.
        """
        handle = self.register_load_state_dict_pre_hook(_check_and_hide)  # the last one: sees what others made of it
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rule": self.rule, **{key: getattr(self, key) for key in _SETTINGS}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """From a copy or a pickle, then all of it; from `load_state_dict`, then state and groups only."""
        super().__setstate__({**state, "state": unhide(state["state"])})
        for key, default in _SETTINGS.items():
            self.__dict__.setdefault(key, default)
        for group in self.param_groups:
            for key, default in _GROUP_SETTINGS.items():
                group.setdefault(key, self.defaults.get(key, default))
        self._forget()

    def _forget(self) -> None:
        """Drop what follows from the rest."""
        self._shapes: dict[Tensor, torch.Size] = {}
        self._runner = Runner(self.rule, self.compile)
        self._warned = False

    def _members(self) -> Iterator[Member]:
        """Every parameter once, numbered in the order of the groups."""
        seen: set[Tensor] = set()
        for group in self.param_groups:
            names = group.get("param_names", [None] * len(group["params"]))
            for name, p in zip(names, group["params"], strict=True):
                if p not in seen:
                    yield Member(str(len(seen)), name, p, group)
                seen.add(p)

    def _by_device(self) -> list[list[Member]]:
        """Parameters to move, one list a device; empty ones have nothing to move."""
        parts: dict[torch.device, list[Member]] = {}
        for member in self._members():
            p = member.param
            if p.grad is not None and p.requires_grad and p.numel():
                parts.setdefault(p.device, []).append(member)
        return list(parts.values())

    def _check_settings(self) -> None:
        """Schedules write to groups; numbers only, because a look at a tensor may wait for its device."""
        for i, group in enumerate(self.param_groups):
            for key in ("lr", "weight_decay"):
                value = group[key]
                if isinstance(value, float) and not -math.inf < value < math.inf:
                    raise ValueError(f"{key} must be finite, or it would ruin the parameters; group {i} has {value}.")

    def _propose(self, members: list[Member], loss: Any) -> Proposal:
        """One call of the rule for the parameters of a device; nothing is changed."""
        self._check_shapes(members)
        device = members[0].param.device
        dtype = self._dtype(device)
        params = {m.key: as_real(m.param.detach(), dtype) for m in members}
        grads = {m.key: as_real(m.gradient(), dtype) for m in members}
        value = scalar(loss, device, dtype)
        if value is not None and self.average_loss:
            value = mean_over_processes(value)
        if value is not None and any(m.group["maximize"] for m in members):
            value = -value if all(m.group["maximize"] for m in members) else None  # no one objective if they disagree
        packed = {m.key: gather_state(self.state.get(m.param, {})) for m in members}
        state = gather(self.rule, params, packed, self._any_state(device), self.total_steps)
        half = self.rule.large_slots if self.state_dtype is not None and self.rule.defers else ()
        state = narrowed(widened(state, half, dtype), half)
        foreign = [*params.values(), *grads.values()]
        with deferring(self.rule.defers and not self.compile) as deferred:
            updates, new = self._runner(grads, state, params, value)
        new = owned(new if self.state_dtype is None else narrowed(new, self.rule.large_slots), foreign)
        return Proposal(members, params, grads, value, updates, new, deferred)

    def _dtype(self, device: torch.device) -> torch.dtype:
        """What is computed with on a device: float64 if any of its parameters is that precise, else float32."""
        dtypes = {m.param.dtype for m in self._members() if m.param.device == device}
        return torch.float64 if dtypes & {torch.float64, torch.complex128} else torch.float32

    def _check_shapes(self, members: list[Member]) -> None:
        for m in members:
            now = m.param.shape
            known = self._shapes.setdefault(m.param, now) if self.state.get(m.param) else now
            if known != now:
                raise ValueError(
                    f"a parameter must keep its shape, because its state has that shape; {m} was {tuple(known)} and is "
                    f"now {tuple(now)} (to start it afresh, clear `optimizer.state[p]`)."
                )
            self._shapes[m.param] = now

    def _any_state(self, device: torch.device) -> Packed | None:
        """Some parameter's state, for what all share; of this device if there is one."""
        found: Packed | None = None
        for p, state in self.state.items():
            if isinstance(p, Tensor) and state:
                if p.device == device:
                    return state
                found = found or state
        return found

    def _refuse(self, fault: str) -> None:
        if self.nonfinite == "raise":
            raise FloatingPointError(f"a step must be finite, or it would ruin the parameters; {fault}.")
        self.skipped_steps += 1
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"l2o leaves out steps that are not finite: {fault}. `skipped_steps` counts them; this is said once.",
                RuntimeWarning,
                stacklevel=5,
            )

    def _commit(self, proposal: Proposal) -> None:
        """Move the parameters in place, and keep the new state."""
        proposal.deferred.advance(seed=int(proposal.state.step) if self.state_dtype is not None else 0)
        for group in self.param_groups:
            members = [m for m in proposal.members if m.group is group]
            if members:
                self._move(members, group, proposal)
        for m in proposal.members:
            self.state[m.param] = shard_state(pack(m.key, proposal.state), m.param)
        device, common = proposal.members[0].param.device, pack("", proposal.state)
        for p, state in self.state.items():  # parameters that rest keep up with the step and what is shared
            if isinstance(p, Tensor) and p.device == device and state:
                state.update(common)

    def _move(self, members: list[Member], group: dict[str, Any], proposal: Proposal) -> None:
        steps = [proposal.updates[m.key] for m in members]
        decay = self.rule.nominal_lr * group["weight_decay"]
        if decay:
            steps = list(torch._foreach_sub(steps, [proposal.params[m.key] for m in members], alpha=decay))
        lr = group["lr"]
        lr = lr.to(steps[0]).reshape(()) if isinstance(lr, Tensor) else lr
        steps = [part_like(step, m.param) for step, m in zip(steps, members, strict=True)]
        targets = [torch.view_as_real(m.param) if m.param.is_complex() else local(m.param) for m in members]
        if isinstance(lr, Tensor):
            torch._foreach_add_(targets, torch._foreach_mul(steps, lr))
        else:
            torch._foreach_add_(targets, steps, alpha=lr)  # half precision: rounded once, at the end


_SETTINGS: dict[str, Any] = {
    "total_steps": None,
    "nonfinite": "skip",
    "compile": False,
    "state_dtype": None,
    "average_loss": True,
    "skipped_steps": 0,
}
_GROUP_SETTINGS: dict[str, Any] = {"lr": 1.0, "weight_decay": 0.0, "maximize": False}


def _check_and_hide(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    assert isinstance(optimizer, LearnedOptimizer)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    keys = [key for group in state_dict["param_groups"] for key in group["params"]]
    loaded = {key: state for key, state in state_dict["state"].items() if key in set(keys)}
    if len(params) == len(keys):  # else the base class refuses
        real = {
            str(i): as_real(torch.empty(p.shape, dtype=p.dtype, device="meta"), torch.float32)
            for i, p in enumerate(params)
        }
        packed = {str(i): loaded[key] for i, key in enumerate(keys) if loaded.get(key)}
        check_matches(optimizer.rule, real, packed, optimizer.total_steps)
    return {**state_dict, "state": {**state_dict["state"], **hide(loaded)}}


def _check_group(lr: float | Tensor, weight_decay: float) -> None:
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"Tensor lr must be 1-element, because it multiplies every step; got {lr.numel()} elements.")
    if not 0.0 <= lr < math.inf:
        raise ValueError(f"lr must be finite and not negative (`maximize=True` ascends); got {lr}.")
    if not 0.0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay must be finite and not negative, because it shrinks; got {weight_decay}.")


def _check_arguments(
    lr: float | Tensor, weight_decay: float, total_steps: int | None, nonfinite: str, state_dtype: torch.dtype | None
) -> None:
    _check_group(lr, weight_decay)
    if total_steps is not None and (not isinstance(total_steps, int) or total_steps < 1):
        raise ValueError(
            f"total_steps must be a positive integer, the length of the run, or None; got {total_steps!r}."
        )
    if nonfinite not in ("skip", "raise", "ignore"):
        raise ValueError(f"nonfinite must be 'skip', 'raise' or 'ignore'; got {nonfinite!r}.")
    if state_dtype not in (None, torch.bfloat16):
        raise ValueError(
            "state_dtype must be torch.bfloat16, which has float32's range, or None for the precision that is computed "
            f"with; got {state_dtype!r}."
        )


def _load_rule(name_or_path: str | os.PathLike[str]) -> UpdateRule:
    with torch.random.fork_rng(devices=[]):  # making an optimizer draws none of the user's random numbers
        torch.manual_seed(0)
        rule = load(name_or_path)
    if not isinstance(rule, UpdateRule):
        raise ValueError(f"rule must be an update rule, which moves parameters; {name_or_path} is a {type(rule)}.")
    if is_untrained(name_or_path):
        warnings.warn(
            f"rule={str(name_or_path)!r} is a fresh {type(rule).__name__} that nobody has trained: expect no progress.",
            UserWarning,
            stacklevel=3,
        )
    return rule

"""The drop-in itself: LearnedOptimizer."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from l2o.optim.guard import FALLBACK, Watch, Watchdog, acting_rule, mended
from l2o.optim.loading import checked_and_hidden, unhide
from l2o.optim.members import Member, as_real, by_device, members_of, precision_on
from l2o.optim.processes import gather_state, local, mean_over_processes, part_like, shard_state
from l2o.optim.proposal import Proposal, fault_of, scalar
from l2o.optim.runner import Runner
from l2o.optim.settings import DEFAULT, OF_GROUP, OF_OPTIMIZER, check_arguments, check_group, check_settings, load_rule
from l2o.optim.state import Packed, gather, narrowed, owned, pack, widened
from l2o.rules.base import UpdateRule
from l2o.rules.coordinates import deferring
from l2o.tracing import untraced


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
        nonfinite: `skip` leaves the whole step out, counts it in `skipped_steps` and warns once; `clip` takes it with
            nan for 0, infinity for the largest finite number of its tensor and without a loss that is not finite, and
            counts it in `clipped_steps` (where that does not help, it is skipped); `raise` raises FloatingPointError;
            `ignore` does not look, which spares a GPU one synchronisation a step.
        compile: fuse the rule with `torch.compile`; the first step then takes longer, for each of up to eight sets of
            parameters that have gradients (see `torch._dynamo.config.recompile_limit`).
        graph: on a GPU, record the rule as a CUDA graph at the third step and play it from then on: one launch in place
            of thousands, from memory of its own, some numbers for each parameter, for each of up to eight sets of
            parameters that have gradients. For rules that look at no number and draw none; where it fails, it says so
            once and goes on without. Takes the place of `compile` there.
        state_dtype: torch.bfloat16 halves the memory of what the rule remembers of each coordinate (its `large_slots`),
            rounded at random so that nothing is lost on average; None keeps the precision that is computed with.
        average_loss: where torch.distributed runs, take the mean loss of all processes, as replicas that saw losses of
            their own would drift apart; all must then give one, or none. False: each has a network of its own.
        watchdog: falls back to AdamW and says so when training diverges, see `Watchdog`; it wants the loss.

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
        nonfinite: Literal["skip", "clip", "raise", "ignore"] = "skip",
        compile: bool = False,
        graph: bool = False,
        state_dtype: torch.dtype | None = None,
        average_loss: bool = True,
        watchdog: Watchdog | None = None,
    ) -> None:
        check_arguments(lr, weight_decay, total_steps, nonfinite, state_dtype)
        self.rule = rule if isinstance(rule, UpdateRule) else load_rule(rule)
        self.total_steps, self.nonfinite, self.compile, self.graph = total_steps, nonfinite, compile, graph
        self.state_dtype, self.average_loss, self.watchdog = state_dtype, average_loss, watchdog
        self.skipped_steps = self.clipped_steps = 0
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "maximize": maximize})
        self._forget()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Train more parameters, from fresh state.

        Raises:
            ValueError: the group's `lr` or `weight_decay` is out of range, or a parameter is in another group.
        """
        if isinstance(param_group, dict):  # else the base class refuses
            settings = {**self.defaults, **param_group}
            check_group(settings["lr"], settings["weight_decay"])
        super().add_param_group(param_group)

    @untraced  # inside of a compiled function too the rule runs on its kernels, or compiled on its own
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
        check_settings(self.param_groups)
        if closure is not None:
            if loss is not None:
                raise ValueError("step takes a closure or a loss, because a closure returns the loss; got both.")
            with torch.enable_grad():
                loss = closure()
        proposals = [self._propose(members, loss) for members in by_device(members_of(self.param_groups))]
        fault = self._fault(proposals)
        if fault is not None and self.nonfinite == "clip":
            cause, proposals = fault, [self._propose(proposal.members, loss, clip=True) for proposal in proposals]
            fault = self._fault(proposals)
            if fault is None:
                self.clipped_steps += 1
                self._tell(f"l2o clips what is not finite: {cause}. `clipped_steps` counts such steps")
        if fault is not None:
            self._refuse(fault)
        else:
            for proposal in proposals:
                self._commit(proposal)
        if self._watch is not None:
            self._look(loss, refused=fault is not None)
        return loss

    @property
    def acting_rule(self) -> UpdateRule:
        """What moves the parameters: `rule`, or AdamW since the watchdog has fallen back to it."""
        return self._runner.rule

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state exactly, dtypes included; the rule itself is not part of it.

        Raises:
            ValueError: it belongs to another rule or to other parameters; nothing is changed then.
        """
        handle = self.register_load_state_dict_pre_hook(  # the last one: sees what others made of it
            lambda _, given: checked_and_hidden(given, self.rule, self.param_groups, self.total_steps)
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rule": self.rule, **{key: getattr(self, key) for key in OF_OPTIMIZER}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """From a copy or a pickle, then all of it; from `load_state_dict`, then state and groups only."""
        super().__setstate__({**state, "state": unhide(state["state"])})
        for key, default in OF_OPTIMIZER.items():
            self.__dict__.setdefault(key, default)
        for group in self.param_groups:
            for key, default in OF_GROUP.items():
                group.setdefault(key, self.defaults.get(key, default))
        self._forget()

    def _forget(self) -> None:
        """Drop what follows from the rest."""
        self._shapes: dict[Tensor, torch.Size] = {}
        acting = acting_rule(self.rule, self.param_groups)
        self._runner = Runner(acting, self.compile, self.graph)
        self._watch = Watch(self.watchdog) if self.watchdog is not None and acting is self.rule else None
        self._told: set[str] = set()

    def _fault(self, proposals: list[Proposal]) -> str | None:
        return None if self.nonfinite == "ignore" else next(filter(None, map(fault_of, proposals)), None)

    def _propose(self, members: list[Member], loss: Any, clip: bool = False) -> Proposal:
        """One call of the rule for the parameters of a device; nothing is changed."""
        rule = self.acting_rule
        self._check_shapes(members)
        device = members[0].param.device
        dtype = precision_on(device, members_of(self.param_groups))
        params = {m.key: as_real(m.param.detach(), dtype) for m in members}
        grads = {m.key: as_real(m.gradient(), dtype) for m in members}
        value = scalar(loss, device, dtype)
        if value is not None and self.average_loss:
            value = mean_over_processes(value)
        if clip:
            grads = {key: mended(x) for key, x in grads.items()}
            value = value if value is not None and value.isfinite() else None
        if value is not None and any(m.group["maximize"] for m in members):
            value = -value if all(m.group["maximize"] for m in members) else None  # no one objective if they disagree
        packed = {m.key: gather_state(self.state.get(m.param, {})) for m in members}
        state = gather(rule, params, packed, self._any_state(device), self.total_steps)
        half = rule.large_slots if self.state_dtype is not None and rule.defers else ()
        state = narrowed(widened(state, half, dtype), half)
        foreign = [*params.values(), *grads.values()]
        with deferring(rule.defers and not self.compile) as deferred:
            updates, new = self._runner(grads, state, params, value)
        updates = {key: mended(x) for key, x in updates.items()} if clip else updates
        new = owned(new if self.state_dtype is None else narrowed(new, rule.large_slots), foreign)
        return Proposal(members, params, grads, value, updates, new, deferred)

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
        self._tell(f"l2o leaves out steps that are not finite: {fault}. `skipped_steps` counts them")

    def _tell(self, what: str) -> None:
        kind = what.split(":")[0]
        if kind not in self._told:
            self._told.add(kind)
            warnings.warn(f"{what}; this is said once.", RuntimeWarning, stacklevel=5)

    def _look(self, loss: Any, refused: bool) -> None:
        """Let the watchdog see the step, and fall back to AdamW if it says so."""
        assert self._watch is not None
        params = [m.param for m in members_of(self.param_groups)]
        value = scalar(loss, params[0].device, torch.float32)
        if value is not None and self.average_loss:
            value = mean_over_processes(value)
        if value is None and not refused:
            self._tell("the watchdog sees no loss, only steps that are not finite: give step(loss=loss) or a closure")
        elif value is not None and all(group["maximize"] for group in self.param_groups):
            value = -value
        if not self._watch.sees(None if value is None else float(value), refused, params):
            return
        dog = self._watch.dog
        went_back = self._watch.go_back()
        self.state.clear()
        for group in self.param_groups:
            group[FALLBACK] = dog.lr
        self._forget()
        warnings.warn(
            f"l2o falls back to AdamW at {dog.lr:g}, because training has diverged for {dog.patience} steps; "
            f"{'the parameters are those of before' if went_back else 'the parameters stay as they are'}.",
            RuntimeWarning,
            stacklevel=4,
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
        decay = self.acting_rule.nominal_lr * group["weight_decay"]
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

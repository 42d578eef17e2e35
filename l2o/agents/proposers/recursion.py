"""A learned optimizer that is meta-trained by the last accepted version of itself, on islands.

An island is a round of outer steps in one place: any `WorkerPool` runs islands side by side, in this process or in
Ray's, because a round is to it but an estimate. What an island returns as gradient is theta before the round less theta
after it; its problems under way, and the state of its outer optimizer, are its worker's state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Generator, nn
from torch.func import functional_call

from l2o.agents.gate import Verdict
from l2o.agents.improve import Proposer
from l2o.agents.losses import clipped
from l2o.agents.spec import AgentSpec, Proposal, packed, unpacked
from l2o.distributed.pool import WorkerPool
from l2o.estimators.base import GradientEstimator, MetaGradient, is_finite
from l2o.rules.base import OptState, UpdateRule
from l2o.rules.hand_designed import Adam
from l2o.training.checkpoint import register_state
from l2o.training.meta_trainer import theta_of
from l2o.types import Theta, tree_detach

Driver: TypeAlias = Literal["self", "adam"]
"""Who takes the outer steps: the last accepted version of the rule in training, or Adam."""

ACCEPTED, WORKING, RATE = "accepted/", "working/", "rate"
SHRINK, GROW = 0.5, 1.25
"""What the rate is multiplied by after a round that was worse, and after one that was accepted, up to 1."""


@register_state
class IslandState(NamedTuple):
    """What goes on between rounds: problems under way, and the outer optimizer's state, None before the first step."""

    problems: Any
    outer: OptState | None


@dataclass(frozen=True)
class Island(GradientEstimator):
    """`num_steps` outer steps, as one estimate.

    Theta has two halves and a rate (see `both`): what is trained, and the accepted version, which drives where `driver`
    is self; the rate multiplies all steps.

    Arguments:
        estimator: of the meta-gradient of each step; its module is the rule in training.
        driver: who takes the steps.
        lr: learning rate of Adam, or multiplier of the rule's own steps.
        spread: each round's rate is that times a number drawn log-uniformly from 1 / spread to spread, so that islands
            try several and the best is proposed.
        num_steps: outer steps of a round.
        total_steps: what a rule that follows a schedule is told is the length of the run; None: not known.
        max_grad_norm: limit on the norm of each meta-gradient.
    """

    estimator: GradientEstimator
    driver: Driver = "self"
    lr: float = 1.0
    spread: float = 1.0
    num_steps: int = 15
    total_steps: int | None = None
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.estimator.module, UpdateRule):
            raise ValueError(
                "an island trains an update rule, which its estimator's `module` must be; got "
                f"{type(self.estimator.module).__name__}."
            )
        if self.num_steps < 1 or not self.lr > 0 or not self.spread >= 1:
            raise ValueError(
                f"an island needs a step, a positive rate and a spread of 1 or more; got num_steps={self.num_steps}, "
                f"lr={self.lr}, spread={self.spread}."
            )

    @property
    def module(self) -> nn.Module | None:
        return self.estimator.module

    def init(self, theta: Theta, generator: Generator) -> IslandState:
        return IslandState(self.estimator.init(_half(theta, WORKING), generator), None)

    def estimate(self, theta: Theta, state: IslandState, generator: Generator) -> tuple[MetaGradient, IslandState]:
        before = _half(theta, WORKING)
        outer, drive = self._driver(_half(theta, ACCEPTED))
        rate = float(theta[RATE])
        if self.spread > 1.0:
            rate *= self.spread ** (2.0 * float(torch.rand((), generator=generator)) - 1.0)
        rate = rate if self.driver == "adam" else self.lr * rate
        opt = outer.init(before, self.total_steps) if state.outer is None else state.outer
        x, problems, losses = before, state.problems, []
        for _ in range(self.num_steps):
            gradient, problems = self.estimator.estimate(x, problems, generator)
            losses.append(gradient.loss.detach())
            if not is_finite(gradient):
                continue
            with torch.no_grad():
                grads = clipped(gradient.grads, self.max_grad_norm)
                updates, opt = functional_call(outer, drive, (grads, opt, x, gradient.loss.detach()))
                x = {name: p + rate * updates[name] for name, p in x.items()}
        moved = {name: torch.zeros_like(p) for name, p in theta.items()}
        moved |= {WORKING + name: (before[name] - p).detach() for name, p in x.items()}
        metrics = {"rate": torch.tensor(rate)}
        return MetaGradient(moved, torch.stack(losses).nanmean(), metrics), IslandState(problems, tree_detach(opt))

    def _driver(self, accepted: Theta) -> tuple[UpdateRule, Theta]:
        if self.driver == "adam":
            adam = Adam(lr=self.lr)
            return adam, dict(adam.named_parameters())
        assert isinstance(self.estimator.module, UpdateRule)
        return self.estimator.module, accepted


class Recursion(Proposer):
    """Proposes a learned optimizer that was trained by the accepted one.

    The accepted version drives; what is trained goes on from the last proposal where the gate could not decide, and
    from the accepted version, weights and state of the outer optimizer, where it was worse, with half the rate. Adam
    drives as long as no version has been accepted, and for a round after each of its own that was worse.

    Arguments:
        rule: what is trained, and what the first proposal begins from.
        make_pool: of islands with a driver; called once for each driver that is needed.
        select: the one to propose of several candidates, by a score of each rule (larger is better); None: the one
            with the lowest meta-loss.
        part: which part of the agent it is.
        driver: auto as told, or always the same one.
    """

    def __init__(
        self,
        rule: UpdateRule,
        make_pool: Callable[[Driver, Theta], WorkerPool],
        select: Callable[[UpdateRule], float] | None = None,
        part: str = "optimizer",
        driver: Literal["auto", "self", "adam"] = "auto",
    ) -> None:
        self.rule, self.make_pool, self.select, self.part, self.driver = rule, make_pool, select, part, driver
        self.pools: dict[Driver, WorkerPool] = {}
        self.first: Theta = {name: p.clone() for name, p in theta_of(rule).items()}
        self.working = self.first
        self.outer: dict[Driver, list[OptState | None]] = {}
        self.fallback = False
        self.rates: dict[Driver, float] = {"self": 1.0, "adam": 1.0}
        self._last: Driver = "adam"
        self._accepted: Theta | None = None

    def propose(self, spec: AgentSpec, generator: Generator) -> Proposal:
        self._accepted = _theta_like(self.rule, unpacked(spec[self.part]))
        self._last = self._choose(learned=self._accepted is not None)
        accepted = self.working if self._accepted is None else self._accepted
        estimates = self._pool(self._last).estimate(both(accepted, self.working, self.rates[self._last]))
        found = []
        for one in estimates:
            if is_finite(one.gradient):
                theta = {name: p - one.gradient.grads[WORKING + name] for name, p in self.working.items()}
                found.append((theta, float(one.gradient.loss)))
        if not found:
            raise ValueError("all islands ended in what is not finite.")
        self.working = min(found, key=lambda each: self._missed(*each))[0]
        return Proposal(self.part, packed(self._with(self.working)), f"{type(self).__name__}, driven by {self._last}")

    def hear(self, proposal: Proposal, verdict: Verdict) -> None:
        pool, rate = self.pools[self._last], self.rates[self._last]
        if verdict.accepted:
            self.outer[self._last] = _outer_states(pool)
            self.rates[self._last] = min(1.0, GROW * rate)
        elif verdict.reason != "undecided":
            self.rates[self._last] = SHRINK * rate
            self.working = self.first if self._accepted is None else self._accepted
            _set_outer_states(pool, self.outer.get(self._last, []))
        self.fallback = self._last == "self" and not verdict.accepted and verdict.reason != "undecided"

    def state_dict(self) -> dict[str, Any]:
        pools = {name: pool.state_dict() for name, pool in self.pools.items()}
        kept = {"working": self.working, "outer": self.outer, "fallback": self.fallback, "rates": self.rates}
        return {"pools": pools, **kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.working, self.outer = state["working"], state["outer"]
        self.fallback, self.rates = state["fallback"], state["rates"]
        for name, one in state["pools"].items():
            self._pool(name).load_state_dict(one)

    def close(self) -> None:
        """End the pools."""
        for pool in self.pools.values():
            pool.close()

    def _choose(self, learned: bool) -> Driver:
        if self.driver == "adam" or (self.driver == "auto" and (self.fallback or not learned)):
            return "adam"
        return "self"

    def _pool(self, driver: Driver) -> WorkerPool:
        if driver not in self.pools:
            self.pools[driver] = self.make_pool(driver, both(self.working, self.working, 1.0))
        return self.pools[driver]

    def _with(self, theta: Theta) -> UpdateRule:
        """The rule with another theta."""
        with torch.no_grad():
            for name, p in self.rule.named_parameters():
                if name in theta:
                    p.copy_(theta[name])
        return self.rule

    def _missed(self, theta: Theta, loss: float) -> float:
        missed = loss if self.select is None else -self.select(self._with(theta))
        return missed if math.isfinite(missed) else math.inf


def both(accepted: Theta, working: Theta, rate: float) -> Theta:
    """The theta of an island: the version that drives, the one that is trained, and the length of steps."""
    halves = {ACCEPTED + name: p for name, p in accepted.items()} | {WORKING + name: p for name, p in working.items()}
    return halves | {RATE: torch.tensor(rate)}


def _theta_like(rule: UpdateRule, other: UpdateRule) -> Theta | None:
    """Theta of a rule of the same kind; None where it is of another."""
    if type(other) is not type(rule) or other.config != rule.config:
        return None
    wanted, own = theta_of(rule), dict(other.named_parameters())
    return {name: own[name].detach().clone() for name in wanted}


def _half(theta: Theta, prefix: str) -> Theta:
    return {name.removeprefix(prefix): p for name, p in theta.items() if name.startswith(prefix)}


def _outer_states(pool: WorkerPool) -> list[OptState | None]:
    return [worker["state"].outer for worker in pool.state_dict()["workers"]]


def _set_outer_states(pool: WorkerPool, states: list[OptState | None]) -> None:
    """The outer optimizers of islands as they were; problems and generators stay where they are."""
    state = pool.state_dict()
    workers = state["workers"]
    kept = states or [None] * len(workers)
    for worker, outer in zip(workers, kept, strict=True):
        worker["state"] = worker["state"]._replace(outer=outer)
    pool.load_state_dict(state)

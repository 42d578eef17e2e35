"""Agents that tune how they adapt: meta-gradients through their own updates, normalised and clipped.

Xu et al., 2018 (https://arxiv.org/abs/1805.09801), Zahavy et al., 2020 (https://arxiv.org/abs/2002.12928).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.func import vmap

from l2o.agents.advantages import gae, normalised
from l2o.agents.episodes import Rollout
from l2o.agents.lifetime import Lifetimes, Lives, Report
from l2o.agents.losses import Hyperparameters
from l2o.agents.policy import Categorical, Distribution, Policy
from l2o.inner_loop import InnerState
from l2o.types import Params, Theta, tree_detach

Target = Literal["return", "bootstrap"]


class Knob(NamedTuple):
    """A hyperparameter that is tuned, within bounds: by its logarithm, or by that of 1 - itself (`complement`).

    So a step of the tuner changes a learning rate, or a discount's distance from 1, by a share of itself.
    """

    low: float
    high: float
    complement: bool = False

    def bounds(self) -> tuple[float, float]:
        """Of the number that is moved, which has no unit."""
        low, high = (1.0 - self.high, 1.0 - self.low) if self.complement else (self.low, self.high)
        if not 0.0 < low < high:
            raise ValueError(f"a knob needs 0 < low < high (of 1 - itself, if that is tuned); got {self!r}.")
        return math.log(low), math.log(high)

    def value(self, raw: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The hyperparameter."""
        return 1.0 - raw.exp() if self.complement else raw.exp()

    def raw(self, value: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """What is moved, from the hyperparameter; brought within bounds."""
        low, high = self.bounds()
        return (1.0 - value if self.complement else value).clamp(min=1e-30).log().clamp(low, high)


KNOBS: dict[str, Knob] = {
    "learning_rate": Knob(1e-5, 0.3),
    "discount": Knob(0.8, 0.9995, complement=True),
    "decay": Knob(0.5, 0.995, complement=True),
    "entropy": Knob(1e-5, 0.3),
    "value": Knob(1e-4, 2.0),
}
"""All hyperparameters that have a meta-gradient and a meaning of their own, with wide bounds."""


class TunerState(NamedTuple):
    """What is moved, by lane, and its gradients' second moments.

    skipped: gradients that were not finite, and moved nothing.
    """

    raw: dict[str, Float[Tensor, "*lanes"]]
    square: dict[str, Float[Tensor, "*lanes"]]
    count: Int[Tensor, ""]
    skipped: Int[Tensor, ""]


@dataclass(frozen=True)
class Tuner:
    """Descends hyperparameters, each number by its own gradient in units of that gradient's usual size.

        s <- memory s + (1 - memory) g^2,    raw <- clamp(raw - rate clip(g / sqrt(s / (1 - memory^t)))).

    The clip is what keeps lanes from collapsing: a rare, large gradient moves no further than `rate * clip`
    (unclipped, 3 to 5% of lanes end with steps more than twice as bad as the best).

    Arguments:
        knobs: what is tuned, by name.
        rate: of a usual gradient, in logarithms.
        clip: of normalised gradients; infinity for none.
        memory: of the second moments.
    """

    knobs: Mapping[str, Knob] = field(default_factory=lambda: dict(KNOBS))
    rate: float = 0.05
    clip: float = 2.0
    memory: float = 0.95

    def __post_init__(self) -> None:
        if not (self.knobs and self.rate > 0.0 and self.clip > 0.0 and 0.0 <= self.memory < 1.0):
            raise ValueError(
                "a tuner needs a knob, rate > 0, clip > 0 and memory in [0, 1), or nothing is tuned; got "
                f"{sorted(self.knobs)}, rate={self.rate}, clip={self.clip}, memory={self.memory}."
            )
        for knob in self.knobs.values():
            knob.bounds()

    def init(self, values: Mapping[str, Float[Tensor, "*lanes"]]) -> TunerState:
        """From hyperparameters to begin with, a number a lane."""
        if set(values) != set(self.knobs):
            raise ValueError(f"every knob needs a value to begin with: {sorted(self.knobs)}; got {sorted(values)}.")
        raw = {name: knob.raw(values[name]) for name, knob in self.knobs.items()}
        zero = torch.zeros((), dtype=torch.int64)
        return TunerState(raw, {name: torch.zeros_like(x) for name, x in raw.items()}, zero, zero)

    def values(self, raw: Mapping[str, Float[Tensor, "*lanes"]]) -> dict[str, Float[Tensor, "*lanes"]]:
        """The hyperparameters, differentiable in `raw`."""
        return {name: knob.value(raw[name]) for name, knob in self.knobs.items()}

    @torch.no_grad()
    def step(self, state: TunerState, grads: Mapping[str, Float[Tensor, "*lanes"]]) -> TunerState:
        """One step against gradients of `raw`."""
        raw, square, skipped = {}, {}, state.skipped
        count = state.count + 1
        for name, knob in self.knobs.items():
            grad, finite = grads[name].nan_to_num(0.0, 0.0, 0.0), grads[name].isfinite()
            skipped = skipped + (~finite).sum()
            seen = self.memory * state.square[name] + (1.0 - self.memory) * grad.square()
            square[name] = torch.where(finite, seen, state.square[name])
            usual = (square[name] / (1.0 - self.memory**count)).sqrt()
            step = (grad / usual.clamp(min=1e-30)).clamp(-self.clip, self.clip)
            raw[name] = (state.raw[name] - self.rate * step).clamp(*knob.bounds())
        return TunerState(raw, square, count, skipped)


@dataclass(frozen=True)
class SelfTuning:
    """Lifetimes whose hyperparameters follow meta-gradients, each lane its own.

    Twice an iteration is made: the agents act, learn, act again, and what they then see judges how they had learned.
    From that the hyperparameters are moved, and with the new ones the agents learn from the second iteration too, so
    no step of an environment is spent on tuning alone. The judge is

    `return`: the policy gradient's surrogate on the fresh steps, with the squared error of values, weighed and
    discounted by fixed hyperparameters (Zahavy et al., 2020, without the entropy).

    `bootstrap`: how far policy and values are from those that the agent has after it learned from the second iteration
    too, which it should have come to sooner (Flennerhag et al., 2022, https://arxiv.org/abs/2109.04504).

    Arguments:
        lifetimes: agents.
        tuner: what is tuned and how.
        fixed: the other hyperparameters; and those of the judge.
        target: see above.
    """

    lifetimes: Lifetimes
    tuner: Tuner = field(default_factory=Tuner)
    fixed: Hyperparameters = Hyperparameters()  # noqa: RUF009 (immutable)
    target: Target = "return"

    def __post_init__(self) -> None:
        unknown = sorted(set(self.tuner.knobs) - set(KNOBS))
        if unknown or self.target not in ("return", "bootstrap"):
            raise ValueError(
                f"knobs must be among {', '.join(KNOBS)}, which have a meta-gradient (clip has none), and target "
                f"return or bootstrap; got {unknown or self.target}."
            )

    def advance(
        self, theta: Theta, lives: Lives, tuning: TunerState, generator: Generator, copies: int = 1
    ) -> tuple[Lives, TunerState, tuple[Report, Report]]:
        """Two iterations of every life, and one step of every knob."""
        agents, theta = self.lifetimes, tree_detach(theta)
        first, running = agents.act(lives, generator, copies)
        raw = {name: x.detach().requires_grad_() for name, x in tuning.raw.items()}
        with torch.enable_grad():
            after, losses = agents.learn(theta, lives.learner, first, self._hyper(raw), generator, copies)
        learned: InnerState = tree_detach(after)
        second, running = agents.act(Lives(lives.world, running, learned), generator, copies)
        with torch.no_grad():
            later, more = agents.learn(theta, learned, second, self._hyper(tuning.raw), generator, copies)
        with torch.enable_grad():
            judged = self._judge(after.params, learned.params, later.params, second)
            grads = torch.autograd.grad(judged.sum(), list(raw.values()), allow_unused=True)
        found = {name: torch.zeros_like(x) if g is None else g for (name, x), g in zip(raw.items(), grads, strict=True)}
        reports = (agents.report(first, losses), agents.report(second, more))
        return Lives(lives.world, running, later), self.tuner.step(tuning, found), reports

    def hyperparameters(self, tuning: TunerState) -> Hyperparameters:
        """As they are now."""
        return self._hyper(tuning.raw)

    def _hyper(self, raw: Mapping[str, Tensor]) -> Hyperparameters:
        return self.fixed._replace(**self.tuner.values(raw))

    def _judge(self, params: Params, now: Params, later: Params, steps: Rollout) -> Float[Tensor, " lanes"]:
        """How well each lane had learned, by fresh steps; differentiable in `params`, whose values are `now`."""
        lane = _distance if self.target == "bootstrap" else _surrogate
        return vmap(lane, in_dims=(None, None, 0, 0, 0, 1))(
            self.lifetimes.policy, self.fixed, params, now, later, steps
        )


def _surrogate(
    policy: Policy, hyper: Hyperparameters, params: Params, now: Params, later: Params, steps: Rollout
) -> Float[Tensor, ""]:
    """Of one lane: policy gradient and squared error of values."""
    value = policy.value(now, steps.observation)
    found = gae(
        hyper.reward_scale * steps.reward,
        value,
        policy.value(now, steps.next_observation),
        steps.terminated,
        steps.done,
        hyper.discount,
        hyper.decay,
    )
    distribution, value = policy.forward(params, steps.observation)
    gained = (distribution.log_prob(steps.action) * normalised(found.advantage)).mean()
    return hyper.value * (value - found.target).square().mean() - gained


def _distance(
    policy: Policy, hyper: Hyperparameters, params: Params, now: Params, later: Params, steps: Rollout
) -> Float[Tensor, ""]:
    """Of one lane: divergence from the later policy, and squared difference of values."""
    target, worth = policy.forward(later, steps.observation)
    distribution, value = policy.forward(params, steps.observation)
    return divergence(target, distribution).mean() + hyper.value * (value - worth).square().mean()


def divergence(p: Distribution, q: Distribution) -> Float[Tensor, "*batch"]:
    """Kullback-Leibler divergence of q from p, in nats."""
    if isinstance(p, Categorical):
        assert isinstance(q, Categorical)
        logs = p.logits.log_softmax(dim=-1)
        return (logs.exp() * (logs - q.logits.log_softmax(dim=-1))).sum(dim=-1)
    assert not isinstance(q, Categorical)
    spread = 2.0 * (p.log_std - q.log_std)
    away = ((p.mean - q.mean) * (-q.log_std).exp()).square()
    return 0.5 * (spread.exp() + away - 1.0 - spread).sum(dim=-1)

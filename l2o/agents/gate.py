"""Whether a new version is better: paired bets on common random numbers, valid whenever one stops.

A score in [0, 1] of the old agent and of the new one on the same held-out task, with the same chances, gives a
difference d in [-1, 1]. Under the hypothesis that the new one is no better, the mean of d given the past is at most 0,
and the wealth of a gambler who bets a part b of it on every difference,

    product over tasks of (1 + b d),

is a supermartingale that begins at 1: it ever reaches 1 / alpha with probability alpha at most (Ville, 1939;
Waudby-Smith and Ramdas, 2024, https://arxiv.org/abs/2010.09686). So one may look after every batch, and stop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.types import draw_seed, seeded

BETS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
"""Parts of its wealth that a gambler bets on each difference; one gambler for each, all with the same part of 1."""

Known: TypeAlias = dict[tuple[int, int], tuple[Tensor, float]]
"""Scores that were found, and the seconds they took, by seed and number of tasks."""

Score: TypeAlias = Callable[[Generator, int], Float[Tensor, " num"]]
"""(generator, num) -> scores in [0, 1] on `num` held-out tasks; equal generators give equal tasks and chances."""


class Verdict(NamedTuple):
    """What became of a proposal.

    accepted: whether it is the new version.
    reason: better, worse, undecided; or slow, not a score a task, not finite, out of range, crashed: ...
    evidence: wealth of the gamblers at the end.
    needed: what accepting took.
    gain: mean difference.
    pairs: tasks that both were scored on.
    """

    accepted: bool
    reason: str
    evidence: float
    needed: float
    gain: float
    pairs: int


class Evidence:
    """The wealth of gamblers on differences in [-1, 1], as an e-value; 1 before the first one."""

    def __init__(self, bets: Sequence[float] = BETS) -> None:
        self.bets = torch.tensor(bets, dtype=torch.float64).unsqueeze(1)
        self.log_wealth = torch.zeros(len(bets), dtype=torch.float64)

    def add(self, differences: Float[Tensor, " n"]) -> float:
        """Bet on further differences; returns the e-value after them."""
        self.log_wealth = self.log_wealth + torch.log1p(self.bets * differences.double()).sum(dim=1)
        return self.value

    @property
    def value(self) -> float:
        """The mean wealth."""
        return float(torch.exp(torch.logsumexp(self.log_wealth, 0) - math.log(len(self.log_wealth))).clamp(max=1e300))


@dataclass(frozen=True)
class Gate:
    """Accepts a new version only where it is better, wrongly with probability `alpha` at most in a whole run.

    Trial k of a run may spend alpha / (k (k + 1)) of it, which sums up to alpha however many there are. So a run of
    nothing but proposals that change nothing ends without a single acceptance with probability 1 - alpha.

    Arguments:
        alpha: probability of any wrong acceptance, over all trials.
        batch: tasks scored at once.
        max_pairs: tasks after which a trial ends undecided, which is a rejection.
        hopeless: evidence of as much for worse ends a trial early; it costs no validity.
        pace: a trial also ends, undecided, once the logarithms of its evidence for better and of that for worse are
            both below this part of pairs / max_pairs of what they need; 0: never. It costs no validity either, and lets
            `max_pairs` be large, since only what looks good or bad takes them.
        max_slowdown: times as long as the old version's that scoring may take; None: any time.
        grace: seconds besides, for what other work on the machine does to clocks.
    """

    alpha: float = 0.05
    batch: int = 64
    max_pairs: int = 1024
    hopeless: float = 20.0
    pace: float = 0.5
    max_slowdown: float | None = 10.0
    grace: float = 10.0

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise ValueError(f"alpha must be between 0 and 1, for it is a probability; got {self.alpha}.")
        if not 0.0 <= self.pace < 1.0:
            raise ValueError(f"pace must be in [0, 1): at 1 hardly anything would be in time; got {self.pace}.")
        if self.batch < 1 or self.max_pairs < self.batch:
            raise ValueError(f"a trial needs a batch of tasks; got batch={self.batch} and max_pairs={self.max_pairs}.")

    def needed(self, trial: int) -> float:
        """The evidence that trial 1, 2, ... of a run needs."""
        return trial * (trial + 1) / self.alpha

    @torch.no_grad()
    def judge(self, old: Score, new: Score, trial: int, generator: Generator, known: Known | None = None) -> Verdict:
        """Score both on freshly drawn tasks, until it is clear which is better, or that it will hardly become so.

        Whatever the new one does (raise, return what is not finite, take too long) is a reason to reject it; errors of
        the old one are raised.

        Arguments:
            trial: its number in the run, from 1.
            generator: of the tasks.
            known: of the old one, from trials on the same tasks; what is not there is added.
        """
        known = {} if known is None else known
        needed, better, worse = self.needed(trial), Evidence(), Evidence()
        total, pairs = 0.0, 0

        def verdict(reason: str) -> Verdict:
            gain = total / pairs if pairs else 0.0
            return Verdict(reason == "better", reason, better.value, needed, gain, pairs)

        while pairs < self.max_pairs:
            num, seed = min(self.batch, self.max_pairs - pairs), draw_seed(generator)
            if (seed, num) not in known:
                known[seed, num] = _timed(old, seed, num)
            before, seconds = known[seed, num]
            try:
                after, taken = _timed(new, seed, num)
            except Exception as error:  # whatever a proposal raises
                return verdict(f"crashed: {type(error).__name__}")
            if self.max_slowdown is not None and taken > self.grace + self.max_slowdown * seconds:
                return verdict("slow")
            if not isinstance(after, Tensor) or after.shape != before.shape:
                return verdict("not a score a task")
            if not bool(after.isfinite().all()):
                return verdict("not finite")
            if not _in_range(after):
                return verdict("out of range")
            if not _in_range(before):
                raise ValueError(
                    "scores must be in [0, 1], so that no bet can lose more than it stakes; got "
                    f"{float(before.min())} to {float(before.max())}."
                )
            difference = (after - before).double()
            total, pairs = total + float(difference.sum()), pairs + num
            if better.add(difference) >= needed:
                return verdict("better")
            if worse.add(-difference) >= self.hopeless:
                return verdict("worse")
            due = self.pace * pairs / self.max_pairs
            if self.pace and better.value < needed**due and worse.value < self.hopeless**due:
                return verdict("undecided")
        return verdict("undecided")


def _timed(score: Score, seed: int, num: int) -> tuple[Tensor, float]:
    began = time.perf_counter()
    found = score(seeded(seed), num)
    return found, time.perf_counter() - began


def _in_range(scores: Tensor) -> bool:
    return bool(((scores >= 0.0) & (scores <= 1.0)).all())


def told(verdict: Verdict) -> dict[str, Any]:
    """A verdict as a ledger holds it."""
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in verdict._asdict().items()}

"""Rules against each other on the same problems: training curves, tuned baselines, intervals, speed-ups.

Every contestant trains the same tasks from the same initial parameters on the same batches. A baseline is given a
learning-rate sweep and, on each task, the rate with the lowest mean final loss over the seeds: chosen on the very
runs that are reported, which can only flatter the baseline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from l2o.inner_loop import Lanes, repeat_lanes
from l2o.rules.base import UpdateRule
from l2o.rules.scaled import Scaled
from l2o.tasks.base import Task
from l2o.types import device_of, seeded

CHUNK = 100
"""Steps whose batches are drawn at once: few draws, and little memory however long the run."""

SMALLEST_SHARE = 0.01
"""Of the first loss, below which final ones are told apart no more."""


@dataclass(frozen=True)
class Contestant:
    """A rule in a comparison.

    Arguments:
        rule: the rule, at its present theta.
        rates: multipliers of its whole step to try (the drop-in's `lr`); at least 7 for a baseline.
    """

    rule: UpdateRule
    rates: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class Result:
    """Training of one task by one contestant at its best rate.

    losses: the training loss before each step, on that step's batch.
    validation: loss on a validation batch after the last step.
    swept: for every rate tried, the mean final loss.
    """

    task: str
    method: str
    rate: float
    losses: Float[Tensor, "seeds steps"]
    validation: Float[Tensor, " seeds"]
    swept: dict[float, float] = field(default_factory=dict)

    @property
    def final(self) -> Float[Tensor, " seeds"]:
        """Mean loss over the last tenth of the steps."""
        return final_loss(self.losses)

    @property
    def area(self) -> Float[Tensor, " seeds"]:
        """Area under the training curve, divided by its length: the mean loss over all steps."""
        return self.losses.mean(dim=-1)

    @property
    def log_share(self) -> Float[Tensor, " seeds"]:
        """Logarithm of the final loss over the first one; shares below `SMALLEST_SHARE` are as good as that."""
        return (self.final / self.losses[:, 0]).clamp(min=SMALLEST_SHARE).log()


def final_loss(losses: Float[Tensor, "*n steps"]) -> Float[Tensor, "*n"]:
    """Mean over the last tenth of the steps, at least one; infinite where a loss is not finite."""
    last = losses[..., -_tenth(losses) :].mean(dim=-1)
    return torch.where(losses.isfinite().all(dim=-1), last, float("inf"))


def _tenth(losses: Tensor) -> int:
    return max(1, losses.shape[-1] // 10)


def compare(
    contestants: Mapping[str, Contestant],
    tasks: Mapping[str, Task],
    num_steps: int,
    num_seeds: int = 5,
    seed: int = 0,
) -> list[Result]:
    """Train every task with every contestant, `num_seeds` times from different initial parameters and batches.

    Arguments:
        tasks: by the name to report.
        num_steps: inner steps of a run; also what rules that follow a schedule are told.
    """
    if not contestants or not tasks:
        raise ValueError(f"a comparison needs contestants and tasks; got {len(contestants)} and {len(tasks)}.")
    if num_steps < 1 or num_seeds < 1:
        raise ValueError(f"a comparison needs a step and a seed; got num_steps={num_steps}, num_seeds={num_seeds}.")
    return [
        _run(name, task, method, contestant, num_steps, num_seeds, seed)
        for name, task in tasks.items()
        for method, contestant in contestants.items()
    ]


@torch.no_grad()
def _run(
    name: str, task: Task, method: str, contestant: Contestant, num_steps: int, num_seeds: int, seed: int
) -> Result:
    num_rates = len(contestant.rates)
    rule = Scaled(contestant.rule).to(device_of(contestant.rule))
    one = Lanes([task] * num_seeds, rule)
    lanes = Lanes([task] * num_seeds * num_rates, rule)
    params = [task.init(seeded(seed + i)) for i in range(num_seeds)]  # lanes are rate-major
    state = lanes.start(params * num_rates, torch.full((num_seeds * num_rates,), float(num_steps)).double())
    rates = torch.tensor(contestant.rates).repeat_interleave(num_seeds).to(lanes.device)
    theta = {key: value.expand(len(rates), *value.shape) for key, value in rule.named_parameters()}
    theta["log_lr"] = rates.log().to(theta["log_lr"].dtype)
    generator = seeded(seed + num_seeds)  # of batches: the seeds before it are those of initial parameters
    losses = []
    for start in range(0, num_steps, CHUNK):
        for batch in one.sample_batches(generator, min(CHUNK, num_steps - start)):
            state, loss = lanes.unroll(theta, state, [repeat_lanes(batch, num_rates)])
            losses.append(loss[0])
    curves = torch.stack(losses, dim=-1).cpu().view(num_rates, num_seeds, num_steps)
    held_out = lanes.losses(state.params, repeat_lanes(one.sample_validation_batch(generator), num_rates)).cpu()
    means = final_loss(curves).mean(dim=-1)
    best = int(means.argmin())
    swept = {rate: float(mean) for rate, mean in zip(contestant.rates, means, strict=True)}
    return Result(name, method, contestant.rates[best], curves[best], held_out.view(num_rates, num_seeds)[best], swept)


def steps_to(losses: Float[Tensor, "seeds steps"], target: float) -> Float[Tensor, " seeds"]:
    """Steps until the curve, averaged over the last tenth of its length, is at or below `target`; else infinite."""
    width = _tenth(losses)
    summed = torch.nn.functional.pad(losses.double(), (1, 0)).cumsum(dim=-1)
    averaged = (summed[:, width:] - summed[:, :-width]) / width
    reached = averaged <= target
    first = torch.where(reached.any(dim=-1), reached.int().argmax(dim=-1) + width, float("inf"))
    return first.double()


def speed_up(result: Result, baseline: Result) -> Float[Tensor, " seeds"]:
    """How many times fewer steps than the tuned baseline's whole run; 0 where its final loss is never reached."""
    target = float(baseline.final.mean())
    return baseline.losses.shape[-1] / steps_to(result.losses, target)


STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""95% of Student's t lie within so much, by degrees of freedom from 1 on."""


def half_interval(values: Float[Tensor, " n"]) -> float:
    """Half the 95% interval of a mean (Student's t); not a number for a single value."""
    freedom = len(values) - 1
    if freedom < 1:
        return float("nan")
    # for many, the expansion of Cornish and Fisher about the normal distribution
    t = STUDENT[freedom - 1] if freedom <= len(STUDENT) else 1.960 + 2.372 / freedom + 2.823 / freedom**2
    return t * float(values.double().std()) / math.sqrt(len(values))


def interval(values: Float[Tensor, " n"], level: float = 0.95, draws: int = 2000) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over seeds."""
    if len(values) < 2:
        return float(values.mean()), float(values.mean())
    index = torch.randint(len(values), (draws, len(values)), generator=seeded(0))
    means = values.double()[index].mean(dim=-1)
    if not bool(means.isfinite().all()):
        return float("nan"), float("nan")
    edges = torch.quantile(means, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64))
    return float(edges[0]), float(edges[1])

"""One run: a problem, an optimizer, a learning rate, a seed, a number of steps."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.optimizers.methods import Method, rate
from benchmarks.optimizers.problem import Batch, Problem
from l2o.optim import LearnedOptimizer
from l2o.types import seeded

EVALUATIONS = 10
"""How often a run is validated, evenly spread; the last time at its end."""

BATCHES = 1_000_000
"""Seeds of batches are so far from those of initial weights."""


@dataclass(frozen=True)
class Run:
    """All that can change what `train` gives, but the code.

    Arguments:
        problem, method: what is trained, and by what.
        half_decades: the learning rate is 10^(k/2).
        seed: of initial weights and batches, whatever the method.
        steps: length of the run, which schedules are told.
        dtype: of parameters and inputs.
        accumulate: batches whose gradients are averaged for a step.
        autocast: compute in bfloat16 where torch deems it safe.
        device: where to compute; batches are drawn on the CPU, the same for all devices. The name of a GPU finds runs
            that were made on one of that name.
    """

    problem: Problem
    method: Method
    half_decades: int
    seed: int
    steps: int
    dtype: str = "float32"
    accumulate: int = 1
    autocast: bool = False
    device: str = "cpu"

    def settings(self) -> dict[str, Any]:
        """As JSON; the file of a run is named by its hash."""
        own = {key: getattr(self, key) for key in ("half_decades", "seed", "steps", "dtype", "accumulate", "autocast")}
        own |= {} if self.device == "cpu" else {"device": device_name(self.device)}
        problem = {"problem": type(self.problem).__name__, **asdict(self.problem)}
        return {**own, "problem": problem, "method": self.method.identity()}


class Curve(NamedTuple):
    """What a run gave: the measure before every step, validation after some, median milliseconds of a step.

    They are of CPU time on the CPU, else of the clock, until the device is done.
    """

    losses: np.ndarray
    validation: np.ndarray
    model_ms: float
    optimizer_ms: float
    num_parameters: int


def device_name(device: str) -> str:
    """What tells runs of one kind of device from others': the name of its GPU; a name stands for itself."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def train(run: Run) -> Curve:
    """Train once; torch's own generator is left as it was. A run whose loss is not finite ends there."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        return _train(run)


def _train(run: Run) -> Curve:
    dtype = getattr(torch, run.dtype)
    model = run.problem.model().to(run.device, dtype)
    optimizer = run.method.make(model, rate(run.half_decades), run.steps, run.method.weight_decay)
    schedule = run.method.schedule(optimizer, run.steps)
    batches, held_out = run.problem.batches(model, seeded(BATCHES + run.seed)), _cast(run, run.problem.held_out())
    num = min(EVALUATIONS, run.steps)
    losses, validation = np.full(run.steps, np.inf, np.float32), np.full(num, np.inf, np.float32)
    due = {math.ceil((i + 1) * run.steps / num): i for i in range(num)}
    times = np.zeros((run.steps, 2))
    mode(model, optimizer, True)
    for step in range(run.steps):
        start = _seconds(run.device)
        loss, measure = _backward(run, model, batches)
        middle = _seconds(run.device)
        if not math.isfinite(measure):
            return _curve(losses, validation, times[:step], model)
        losses[step] = measure
        optimizer.step(**({"loss": loss} if isinstance(optimizer, LearnedOptimizer) else {}))
        if schedule is not None:
            schedule.step()
        times[step] = middle - start, _seconds(run.device) - middle
        if step + 1 in due:
            validation[due[step + 1]] = validate(run, model, optimizer, held_out)
    return _curve(losses, validation, times, model)


def _seconds(device: str) -> float:
    """CPU time; of another device the clock, once it is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def _backward(run: Run, model: nn.Module, batches: Any) -> tuple[Tensor, float]:
    """Gradients of one step, with the loss and what is measured."""
    model.zero_grad(set_to_none=True)
    total, measure = torch.zeros((), device=run.device), 0.0
    for _ in range(run.accumulate):
        (batch,) = _cast(run, [next(batches)])
        with torch.autocast(torch.device(run.device).type, torch.bfloat16) if run.autocast else nullcontext():
            loss = run.problem.loss(model, batch)
        (loss / run.accumulate).backward()
        total = total + loss.detach().float() / run.accumulate
        measure += run.problem.measure(loss, batch) / run.accumulate
    return total, measure


@torch.no_grad()
def validate(run: Run, model: nn.Module, optimizer: Optimizer, held_out: list[Batch]) -> float:
    """The validation loss, of the averaged weights where an optimizer has them, with statistics made anew for these."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    mode(model, optimizer, False)
    if hasattr(optimizer, "eval"):
        renew_statistics(run, model)
    found = run.problem.validate(model, held_out)
    for name, buffer in model.named_buffers():
        buffer.copy_(before[name])
    mode(model, optimizer, True)
    return found


def renew_statistics(run: Run, model: nn.Module, num: int = 20) -> None:
    """Running means of batch normalisation for the weights as they are, from batches of their own."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if norms:
        for norm in norms:
            norm.train().reset_running_stats()
        batches = run.problem.batches(model, seeded(2 * BATCHES + run.seed))
        for _ in range(num):
            run.problem.loss(model, next(batches))
        model.eval()


def mode(model: nn.Module, optimizer: Optimizer, training: bool) -> None:
    """Tell the model, and an optimizer that averages weights, whether training or validation comes."""
    model.train(training)
    if hasattr(optimizer, "eval"):
        (optimizer.train if training else optimizer.eval)()


def _cast(run: Run, batches: list[Batch]) -> list[Batch]:
    """Batches on the run's device; numbers, though not codes, in its precision."""
    dtype = getattr(torch, run.dtype)
    return [tuple(x.to(run.device, dtype if x.is_floating_point() else x.dtype) for x in batch) for batch in batches]


def _curve(losses: np.ndarray, validation: np.ndarray, times: np.ndarray, model: nn.Module) -> Curve:
    model_ms, optimizer_ms = (1e3 * np.median(times, axis=0)).tolist() if len(times) else (0.0, 0.0)
    return Curve(losses, validation, model_ms, optimizer_ms, sum(p.numel() for p in model.parameters()))

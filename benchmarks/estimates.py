"""Our meta-gradients, made one at a time: what the benchmarks of meta-training measure.

`pes` is PES with the per-parameter MLP rule, a pair of networks a task; `backprop` is truncated backpropagation, first
order, through the LSTM rule. Both train 64-32-10 perceptrons on digits, batch 64.
"""

from __future__ import annotations

import time
from typing import Any, Literal, TypeAlias

import torch

from l2o.estimators import PES, Backprop, GradientEstimator, Problems, Truncation
from l2o.rules import LSTMRule, MLPRule
from l2o.tasks import MLPFamily
from l2o.training.meta_trainer import theta_of

Setting: TypeAlias = Literal["pes", "backprop"]
Mode: TypeAlias = Literal["eager", "compiled"]
RuleName: TypeAlias = Literal["mlp", "lstm"]

TITLES: dict[Setting, str] = {"pes": "PES, MLP rule", "backprop": "backprop, LSTM rule"}
RULE_OF: dict[Setting, RuleName] = {"pes": "mlp", "backprop": "lstm"}


class Estimates:
    """An estimator at work; made with its first estimate, whose time stands apart.

    Arguments:
        setting, mode, num_tasks, window: what to estimate, how, on how many tasks, for how many inner steps.
        recompute: of `Problems`.
        rule: other than the setting's own.
    """

    def __init__(
        self,
        setting: Setting,
        mode: Mode,
        num_tasks: int,
        window: int,
        recompute: bool = False,
        rule: RuleName | None = None,
    ) -> None:
        self.setting, self.num_tasks, self.window = setting, num_tasks, window
        self.name = f"l2o {mode}"
        start = time.perf_counter()
        torch.manual_seed(0)
        made = LSTMRule() if (rule or RULE_OF[setting]) == "lstm" else MLPRule()
        problems = Problems(
            made,
            MLPFamily(),
            num_tasks,
            truncation=Truncation(window=window, horizon=1000 * window),
            order="first",
            compile=mode == "compiled",
            recompute=recompute,
        )
        self._theta, self._generator = theta_of(made), torch.Generator().manual_seed(0)
        self._estimator: GradientEstimator = PES(problems) if setting == "pes" else Backprop(problems)
        self._state: Any = self._estimator.init(self._theta, self._generator)
        self.run()
        self.first_call_seconds = time.perf_counter() - start

    def run(self) -> tuple[float, float]:
        """One estimate: wall and CPU seconds."""
        wall, cpu = time.perf_counter(), time.process_time()
        _, self._state = self._estimator.estimate(self._theta, self._state, self._generator)
        return time.perf_counter() - wall, time.process_time() - cpu

    def close(self) -> None:
        """Nothing to end."""


def inner_steps(setting: Setting, num_tasks: int, window: int) -> int:
    """Inner steps of one estimate; PES trains a pair of networks a task."""
    return (2 if setting == "pes" else 1) * num_tasks * window

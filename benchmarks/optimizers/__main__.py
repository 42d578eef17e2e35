"""Is the learned optimizer, as it is shipped, as good as tuned baselines on what it was not meta-trained on?

    python -m benchmarks.optimizers --rule default --record       # hours; goes on where it was stopped
    python -m benchmarks.optimizers --only convnet gpt --optimizers adamw muon --record    # adds to the rows there are
    python -m benchmarks.optimizers --stress --device cuda        # long, large, tiny, half-precision
    python -m benchmarks.optimizers --time                        # milliseconds of every problem, hours of it all

What is recorded takes the place of rows of the same problems and methods; ratios, table and picture are made of all.
Data are found in the folder that L2O_DATA names, or downloaded; the graph of sentences needs `banking77_minilm.npz`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from benchmarks.optimizers import methods, problems, stress
from benchmarks.optimizers.figure import figure
from benchmarks.optimizers.report import table
from benchmarks.optimizers.rows import Row, compared, merged, row, swept
from benchmarks.optimizers.sweep import SLOW, Comparison, Store, shortened
from benchmarks.optimizers.train import Run, train
from benchmarks.record import RESULTS, keep, read, write


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        rule: the learned optimizer, a name or path that `l2o.load` takes.
        only: problems; all if empty.
        optimizers: which to run; all if empty. What is measured against AdamW or Muon needs them too.
        seeds: runs of the report.
        sweep_seeds: other runs, by which learning rates are chosen.
        steps: length of all runs, to try things out; each problem's own if None.
        known: take the learning rates that recorded rows chose for the baselines, without another sweep.
        slow: also run Muon on the wide perceptron, over a second a step.
        threads: CPU threads.
        stress: run the hard cases instead.
        cases: which of the hard ones; all if empty.
        device: of the hard cases, as `Run` has it; the comparison itself is the CPU's.
        time: measure how long it all would take instead.
        out: folder of runs, rows and picture.
        record: keep rows and picture in benchmarks/results.
    """

    rule: str = "default"
    only: tuple[str, ...] = ()
    optimizers: tuple[str, ...] = ()
    seeds: int = 5
    sweep_seeds: int = 1
    steps: int | None = None
    known: bool = False
    slow: bool = False
    threads: int = 1
    stress: bool = False
    cases: tuple[str, ...] = ()
    device: str = "cpu"
    time: bool = False
    out: Path = Path("runs/optimizers")
    record: bool = False


def compare(config: Config) -> None:
    """Every method on every problem; rows, picture, table."""
    wanted = methods.chosen(config.optimizers, config.rule)
    chosen = shortened(problems.chosen(config.only), config.steps)
    store = Store(config.out / "runs")
    before = read("optimizers") if config.known or config.record else []
    chosen_before = (
        {pair: of for pair, of in swept(before).items() if pair[1] not in methods.OURS} if config.known else {}
    )
    comparison = Comparison(chosen, wanted, store, config.seeds, config.sweep_seeds, config.slow, chosen_before)
    new = [row(result) for result in comparison.run()]
    if config.record:
        _write(config, merged(new, before), RESULTS)
    _write(config, new, config.out)
    Console().print(Markdown(table(read("optimizers", RESULTS if config.record else config.out))))


def _write(config: Config, single: list[Row], folder: Path) -> None:
    found = compared(single)
    write("optimizers", config, found, folder)
    figure(found).savefig(folder / "optimizers.png", dpi=130)


def stressed(config: Config) -> None:
    """The hard cases; rows and a table."""
    wanted = methods.chosen((stress.REFERENCE, *(config.optimizers or ("ours",))), config.rule)
    cases = stress.chosen(config.cases, config.steps)
    found = list(stress.stress(wanted, Store(config.out / "runs"), cases, config.device))
    keep("optimizers_stress", config, found, by=("case", "method"))
    Console().print(stress.shown(found))


def timed(config: Config, steps: int = 40) -> None:
    """Milliseconds of the model and of each method's step, and hours of the whole comparison."""
    wanted = methods.chosen(config.optimizers or tuple(methods.BASELINES), config.rule)
    chosen = problems.chosen(config.only)
    comparison = Comparison(chosen, wanted, Store(config.out / "runs"), config.seeds, config.sweep_seeds)
    shown, hours = Table("problem", "parameters", "steps", "model, ms", *wanted, "hours"), 0.0
    for name, problem in chosen.items():
        timely = {key: one for key, one in wanted.items() if config.slow or (name, key) not in SLOW}
        curves = {key: train(Run(problem, one, -6, 0, steps)) for key, one in timely.items()}
        first = next(iter(curves.values()))
        cost = {key: comparison.num_runs(key) * (first.model_ms + curve.optimizer_ms) for key, curve in curves.items()}
        spent = problem.steps * sum(cost.values()) / 3.6e6
        cells = [f"{curves[key].optimizer_ms:.2f}" if key in curves else "" for key in wanted]
        size, model_ms = f"{first.num_parameters:,}", f"{first.model_ms:.2f}"
        shown.add_row(name, size, str(problem.steps), model_ms, *cells, f"{spent:.2f}")
        hours += spent
    Console(width=160).print(shown, f"{hours:.1f} hours, without validation")


def main(config: Config) -> None:
    """Compare, or what was asked for instead."""
    torch.set_num_threads(config.threads)
    run: Any = stressed if config.stress else timed if config.time else compare
    run(config)


if __name__ == "__main__":
    main(tyro.cli(Config))

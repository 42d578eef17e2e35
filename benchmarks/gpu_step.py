"""What does a step of an optimizer cost on a GPU, beside torch's own?

    python -m benchmarks.gpu_step --record                       # on a machine with a GPU
    python -m benchmarks.gpu_step --sizes 10000000 --rules mlp

Steps from given gradients on equal, nearly square matrices, timed by the clock from an idle GPU until it is idle again;
repeats of all optimizers alternate, and medians are told. Ours go through `LearnedOptimizer`, on our Triton kernels,
launched one by one and from a CUDA graph; apart from the one in the box they are untrained, because what a step costs
does not depend on weights. `host_ms` is what Python takes until `step` returns, for ours with its look at whether the
step is finite: where it is nearly all of `ms`, the GPU waits for Python.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch.nn import Parameter
from torch.optim import Optimizer

from benchmarks.peers.protocol import shapes
from benchmarks.record import keep, markdown, read, readable
from benchmarks.step_time import MAKE_RULE, TORCH
from l2o import LearnedOptimizer, load


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        sizes: parameters in all.
        tensors: matrices they are in.
        rules: of ours.
        repeats: steps timed of each optimizer.
        device: which GPU.
        out: folder of the rows.
        record: keep the rows in benchmarks/results.
    """

    sizes: tuple[int, ...] = (1_000_000, 10_000_000, 124_000_000)
    tensors: tuple[int, ...] = (148,)
    rules: tuple[str, ...] = ("adam", "mlp", "mlp32", "matrix", "velo", "default")
    repeats: int = 20
    device: str = "cuda"
    out: Path = Path("runs/gpu_step")
    record: bool = False


class Steps:
    """An optimizer at work on matrices of its own, and what it takes."""

    def __init__(self, make: Callable[[list[Parameter]], Optimizer], sizes: list[tuple[int, int]], device: str) -> None:
        generator = torch.Generator(device).manual_seed(0)
        draw = partial(torch.randn, generator=generator, device=device)
        params = [Parameter(0.05 * draw(*shape)) for shape in sizes]
        for p in params:
            p.grad = 0.01 * draw(*p.shape)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        self.optimizer = make(params)
        ours = isinstance(self.optimizer, LearnedOptimizer)
        self.arguments: dict[str, Any] = {"loss": torch.ones((), device=device)} if ours else {}
        self.first_call_seconds = self.run()[0] / 1e3
        for _ in range(3):
            self.run()
        num = sum(p.numel() for p in params)
        self.kept = (torch.cuda.memory_allocated(device) - before) / num
        self.peak = (torch.cuda.max_memory_allocated(device) - before) / num
        self.times: list[tuple[float, float]] = []

    def run(self) -> tuple[float, float]:
        """One step: milliseconds until it is done, and until Python goes on."""
        torch.cuda.synchronize()
        start = time.perf_counter()
        self.optimizer.step(**self.arguments)
        launched = time.perf_counter()
        torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - start), 1e3 * (launched - start)


def contestants(config: Config) -> dict[str, Callable[[list[Parameter]], Optimizer]]:
    """Torch's optimizers and ours, by name."""
    known = MAKE_RULE | {"default": lambda: load("default")}
    ours = {
        f"l2o {name}{', graph' * graph}": partial(LearnedOptimizer, rule=known[name](), graph=graph)
        for name in config.rules
        for graph in (False, True)
    }
    return {f"torch {name}": make for name, make in TORCH.items()} | ours


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row an optimizer, size and number of tensors."""
    gpu = torch.cuda.get_device_name(config.device)
    for size in config.sizes:
        for tensors in config.tensors:
            sizes = shapes(size, tensors)
            num = sum(rows * columns for rows, columns in sizes)
            work = {name: Steps(make, sizes, config.device) for name, make in contestants(config).items()}
            for _ in range(config.repeats):
                for one in work.values():
                    one.times.append(one.run())
            found = {name: [median(times) for times in zip(*one.times, strict=True)] for name, one in work.items()}
            for name, one in work.items():
                done, launched = found[name]
                yield {
                    "gpu": gpu,
                    "parameters": num,
                    "tensors": tensors,
                    "optimizer": name,
                    "ms": done,
                    "host_ms": launched,
                    "over_adamw_foreach": done / found["torch AdamW foreach"][0],
                    "over_adamw_fused": done / found["torch AdamW fused"][0],
                    "state_bytes": one.kept,
                    "peak_bytes": one.peak,
                    "first_call_seconds": one.first_call_seconds,
                }
            del work
            torch.cuda.empty_cache()


def table() -> str:
    """Milliseconds of a step from the recorded rows in Markdown, and in brackets how many of AdamW's that is."""
    rows = read("gpu_step")
    sizes = list(dict.fromkeys((row["parameters"], row["tensors"]) for row in rows))
    lines = []
    for name in dict.fromkeys(row["optimizer"] for row in rows):
        of = {(row["parameters"], row["tensors"]): row for row in rows if row["optimizer"] == name}
        lines.append([name, *(f"{of[size]['ms']:.1f} ({of[size]['over_adamw_foreach']:.1f})" for size in sizes)])
    first = rows[0]
    caption = (
        "Milliseconds of a step by the clock, median of "
        f"{first['config']['repeats']}, in brackets over those of torch's AdamW with foreach. {first['gpu']}, "
        f"{first['machine']}, torch {first['versions']['torch']}, commit {first['commit']}."
    )
    return markdown(["optimizer", *(f"{size:,} parameters in {num} tensors" for size, num in sizes)], lines, caption)


def main(config: Config) -> None:
    """Measure, write, show."""
    rows = list(run(config))
    keep("gpu_step", config, rows, by=("gpu", "parameters", "tensors", "optimizer"))
    columns = {
        "ms": "ms",
        "Python ms": "host_ms",
        "/ AdamW foreach": "over_adamw_foreach",
        "/ fused": "over_adamw_fused",
        "state bytes": "state_bytes",
        "peak bytes": "peak_bytes",
        "first s": "first_call_seconds",
    }
    shown = Table("parameters", "optimizer", *columns, title=f"a step on {rows[0]['gpu']}; bytes for each parameter")
    for row in rows:
        shown.add_row(f"{row['parameters']:,}", row["optimizer"], *(readable(row[key]) for key in columns.values()))
    Console(width=120).print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

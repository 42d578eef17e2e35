"""Do networks with a memory learn to copy, to repeat, to recall, and to remember characters that they saw once?

    python -m benchmarks.memory --only ntm-copy dnc-copy --record

Graves et al. (2014, section 4; 2016) and Santoro et al. (2016, table 1). A run that was stopped, however, goes on from
its last checkpoint and gives the same numbers; one that is finished is judged again, and with `--steps` learns on.
Copying, repeating and recalling are judged at lengths beyond those of training too, on sequences that nothing was
chosen by; a run ends early once its validation sequences are without a fault `PATIENCE` times in a row. Repeats are
learned on short sequences first, which grow as they are mastered, and so are streams of characters, whose encoder has
learned to tell training characters apart before. Characters are those of Omniglot (found or downloaded, see
`l2o.tasks.data.omniglot`); first instances can at best be guessed among the labels not yet taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.memory_problems import CLIP, RECENT, RUNS, Characters, Scores, Setting, exactly
from benchmarks.record import commit, keep
from l2o.learners import NTM
from l2o.learners.batch_norm import calibrate
from l2o.learners.memory.core import MemoryCore
from l2o.memory import keep_freed_memory
from l2o.tasks import Copy
from l2o.tasks.sequences import bit_loss
from l2o.training.outer import rate_factor
from l2o.training.report import plain
from l2o.training.run import RunDirectory
from l2o.types import seeded

PATIENCE = 5
"""Evaluations without a wrong bit, one after the other, that end a run."""


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        only: names of runs; all if empty.
        seeds: of weights and training sequences.
        steps: in place of each run's own; its learning rate comes down over them.
        lr: in place of each run's own.
        judged: sequences of the final report, of each kind, or streams.
        validated: sequences of a validation, of each kind, or streams.
        checkpoint_every: steps between checkpoints.
        compile: fuse the steps of training with torch.compile: half the time, after half a minute.
        speed: measure sequences per CPU-second of the NTM too.
        threads: CPU threads.
        device: where the networks compute; a run may go on on another.
        out: folder of the runs and rows.
        record: keep the rows in benchmarks/results.
    """

    only: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    steps: int | None = None
    lr: float | None = None
    judged: int = 1000
    validated: int = 64
    checkpoint_every: int = 250
    compile: bool = False
    speed: bool = True
    threads: int = 1
    device: str = "cpu"
    out: Path = Path("runs/memory")
    record: bool = False


class Training:
    """One run in its folder: a model, its optimizer, and all that a checkpoint holds."""

    def __init__(self, setting: Setting, config: Config, seed: int, folder: Path) -> None:
        self.setting, self.config, self.seed = setting, config, seed
        self.total = config.steps or setting.steps
        self.directory = RunDirectory(folder, file="model.safetensors")
        torch.manual_seed(seed)
        self.model, self.generator = setting.make().to(config.device), seeded(seed)
        if config.compile:
            fuse_steps(self.model)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.lr or setting.lr)
        self.rate = self.optimizer.param_groups[0]["lr"]
        self.told: dict[str, Any] = {
            "step": 0,
            "cpu_seconds": 0.0,
            "faultless": 0,
            "skipped": 0,
            "size": 0,
            "trained_at": commit(),
            "device": config.device,
            **self._settings(),
        }
        self.best: dict[str, Any] = {"badness": float("inf"), "step": 0, "model": {}}
        self.recent: list[float] = []
        self.at_size: list[float] = []
        self.curve: list[dict[str, float]] = []
        self._restore(self.directory.newest())

    @property
    def done(self) -> bool:
        """Whether there is nothing more to train."""
        return self.told["step"] >= self.total or self.told["faultless"] >= PATIENCE

    def run(self) -> None:
        """To the last step, or until nothing is wrong any more."""
        factor, half = rate_factor("linear", 0, max(1, self.total // 2), last=0.0), self.total - self.total // 2
        began = time.process_time()
        if self.told["step"] == 0 and self.setting.prepare is not None:
            self.setting.prepare(self.model, self.generator)
        while not self.done:
            self.optimizer.param_groups[0]["lr"] = self.rate * factor(max(0, self.told["step"] - half))
            self._learn()
            step = self.told["step"]
            if step % self.setting.evaluate_every == 0 or step == self.total:
                self._validate()
            if step % self.config.checkpoint_every == 0 or self.done:
                now = time.process_time()
                self.told["cpu_seconds"], began = self.told["cpu_seconds"] + now - began, now
                self._save()

    def _learn(self) -> None:
        grown = min(1.0, self.told["size"] / self.setting.growing) if self.setting.growing else 1.0
        loss = self.setting.problem.loss(self.model, self.generator, self.setting.batch, grown)
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.setting.clip)
        if bool(norm.isfinite()):
            self.optimizer.step()
        else:
            self.told["skipped"] += 1
        self.told["step"] += 1
        self.recent.append(float(loss.detach()))
        self._grow(self.recent[-1])

    def _grow(self, loss: float) -> None:
        """To the next size of a curriculum, once the last losses at this one are small."""
        self.at_size = [*self.at_size[1 - RECENT :], loss]
        if self.told["size"] >= self.setting.growing or len(self.at_size) < RECENT:
            return
        if self.setting.problem.mastered(sum(self.at_size) / RECENT, self.told["size"] / self.setting.growing):
            self.told["size"], self.at_size = self.told["size"] + 1, []

    def _validate(self) -> None:
        found = self.judge(self.config.validated, seed=10**6 + self.seed)
        badness = self.setting.problem.badness(found)
        if badness <= self.best["badness"]:
            model = {name: x.clone() for name, x in self.model.state_dict().items()}
            self.best = {"badness": badness, "step": self.told["step"], "model": model}
        self.told["faultless"] = self.told["faultless"] + 1 if badness == 0 else 0
        self.curve.append({"step": self.told["step"], "loss": sum(self.recent) / len(self.recent), **found})
        self.recent = []
        line = ", ".join(f"{name} {value:.4g}" for name, value in self.curve[-1].items())
        print(f"{self.directory.path.name}: {line}, CPU s {self.told['cpu_seconds']:.0f}", flush=True)

    def judge(self, num: int, seed: int, **where: Any) -> Scores:
        """Scores of the model, or of one with a larger memory; `running` statistics are of training data."""
        problem, model = self.setting.problem, self.model
        if self.setting.judged is not None:
            model = self.setting.judged().to(self.config.device)
            model.load_state_dict(self.model.state_dict())
        with torch.no_grad():
            calibrate(model, lambda: problem.loss(model, seeded(seed + 1), 16))
            model.eval()
            found = problem.scores(model, seeded(seed), num, **where)
            model.train()
        return found

    def report(self) -> dict[str, Any]:
        """The best model on what nothing was chosen by."""
        self.model.load_state_dict(self.best["model"])
        where = {"part": "test"} if isinstance(self.setting.problem, Characters) else {}
        found = self.judge(self.config.judged, seed=2 * 10**6 + self.seed, **where)
        curve = [{name: plain(value) for name, value in point.items()} for point in self.curve]
        about = {"seed": self.seed, "best_step": self.best["step"], "larger_memory": self.setting.judged is not None}
        return {**self.told, **about, "scores": found, "curve": curve}

    def _settings(self) -> dict[str, Any]:
        """What a run must go on with, besides its rate."""
        more = {"prepared": self.setting.prepare is not None, "compile": self.config.compile}
        return {"growing": self.setting.growing, "clip": self.setting.clip, **more}

    def _save(self) -> None:
        tree = {"told": self.told, "best": self.best, "recent": self.recent, "curve": self.curve, "rate": self.rate}
        tree |= {"at_size": self.at_size}
        tree |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        self.directory.save_checkpoint(tree | {"generator": self.generator.get_state()}, self.told["step"])

    def _restore(self, tree: Any) -> None:
        if tree is None:
            return
        if tree["rate"] != self.rate:
            raise ValueError(
                f"a run must go on with its rate; {self.directory.path} has {tree['rate']}, got {self.rate}."
            )
        given, wanted = tree["told"], self._settings()
        if any(given.get(name) != value for name, value in wanted.items()):
            had = {name: given.get(name) for name in wanted}
            raise ValueError(f"a run must go on with its settings; {self.directory.path} has {had}, got {wanted}.")
        self.told |= given
        self.best, self.recent, self.curve = tree["best"], tree["recent"], tree["curve"]
        self.at_size = tree.get("at_size", [])
        self.model.load_state_dict(dict(tree["model"]))
        self.optimizer.load_state_dict(tree["optimizer"])
        self.generator.set_state(tree["generator"])


def fuse_steps(model: nn.Module) -> None:
    """Let the compiler fuse a memory's steps where they are trained, however long the sequences are."""
    for core in model.modules():
        if isinstance(core, MemoryCore):
            plain, fused = core.step, torch.compile(core.step, dynamic=False)
            core.step = partial(_step, plain, fused)  # type: ignore[method-assign]


def _step(plain: Callable[..., Any], fused: Callable[..., Any], read: Tensor, state: Any) -> Any:
    """Judging, with batches of other sizes, is not worth compiling."""
    return (fused if torch.is_grad_enabled() else plain)(read, state)


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a run and seed, and those of speed."""
    if config.speed:
        yield from speeds()
    for name in config.only or RUNS:
        for seed in config.seeds:
            training = Training(RUNS[name], config, seed, config.out / f"{name}_{seed}")
            training.run()
            yield {"run": name, "targets": RUNS[name].targets, **training.report()}


def speeds(seconds: float = 10.0) -> Iterator[dict[str, Any]]:
    """Sequences of length 20 that the NTM (128 rows of 20, LSTM of 100) learns from in a second of one thread."""
    source = Copy(length=exactly(20))
    for num in (1, 16):
        model, generator = NTM(source.inputs, source.outputs), seeded(0)
        optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-4)
        began, count = None, -2  # two to warm up
        while began is None or time.process_time() - began < seconds:
            drawn = source.sample(generator, num)
            loss = bit_loss(model(drawn.x), drawn)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            count += 1
            began = time.process_time() if count == 0 else began
        assert began is not None
        rate = num * count / (time.process_time() - began)
        yield {"run": f"speed, batch {num}", "targets": {}, "scores": {"sequences per CPU-second": rate}}


def main(config: Config) -> None:
    """Train, judge, write, show."""
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    rows = list(run(config))
    keep("memory", config, rows, by=("run", "seed"))
    shown = Table("run", "steps", "CPU minutes", "score", "", "target", title="networks with a memory")
    for row in rows:
        spent = [f"{row['step']:,}", f"{row['cpu_seconds'] / 60:.0f}"] if "step" in row else ["", ""]
        for name, value in row["scores"].items():
            shown.add_row(row["run"], *spent, name, f"{value:.4g}", f"{row['targets'].get(name, '')}")
    Console(width=120).print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))

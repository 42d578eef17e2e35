"""What do a killed process, a full disk, a truncated file and a flipped byte cost a run, and are they told?

    python -m benchmarks.faults --num-faults 1000 --record

Every fault strikes a run of its own. Kills and full disks strike a process that works, at a random moment or byte;
truncations and flips strike a random file of what it left. Then the work goes on to its end, and what it ends with is
compared bit for bit with the work that nothing struck. The disk is full by a limit on the size of files
(RLIMIT_FSIZE), which ends a write in its middle. Outcomes are kept in `outcomes.jsonl` of the folder `--out`, so that
another call goes on with the faults that are left.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro

from benchmarks.record import RESULTS, write
from l2o.distributed import LocalPool
from l2o.estimators import PES, Problems, Truncation
from l2o.load import load, save
from l2o.rules import LSTMRule, UpdateRule
from l2o.tasks import Quadratics
from l2o.training.checkpoint import load_tree
from l2o.training.config import MetaTrainConfig, read_config, to_plain
from l2o.training.ledger import audit
from l2o.training.meta_trainer import MetaTrainer, theta_of
from l2o.training.run import RunDirectory, meta_train

STEPS, EVERY = 10, 2
DONE = mmap.mmap(-1, 1)
"""Steps that the working process has made, seen from the one that kills it."""


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        num_faults: of all kinds together.
        seed: of the faults.
        minutes: after which a call ends, with rows of the faults so far.
        out: folder of the rows.
        record: keep the rows in benchmarks/results.
    """

    num_faults: int = 1000
    seed: int = 0
    minutes: float = 120.0
    out: Path = Path("runs/faults")
    record: bool = False


class Subject(NamedTuple):
    """What faults strike. Another kind of file joins by a line in SUBJECTS.

    work: goes on to the end from whatever stands in the folder, `DONE` steps so far.
    result: what the folder holds, as a digest.
    files: what may be damaged, and the reader that has to tell of it.
    progress: how many steps the folder is worth.
    spare: steps between two things that are kept, which a kill may cost.
    """

    work: Callable[[Path, int], None]
    result: Callable[[Path], str]
    files: Callable[[Path], dict[Path, Callable[[Path], Any]]]
    progress: Callable[[Path], int]
    spare: int


class Noted(MetaTrainer):
    """A trainer whose steps are seen by another process."""

    def step(self) -> dict[str, float]:
        """An outer step."""
        metrics = super().step()
        DONE[0] = self.num_steps
        return metrics


def meta_training(folder: Path, steps: int = STEPS) -> None:
    """Meta-train a small LSTM as `l2o meta-train --resume` does: by the settings that stand in the folder."""
    directory, path = RunDirectory(folder), folder / "config.yaml"
    config = read_config(path) if path.exists() else MetaTrainConfig(seed=3, checkpoint_every=EVERY)
    directory.write_config(to_plain(config))
    torch.manual_seed(config.seed)
    rule = LSTMRule(hidden_size=4)
    problems = Problems(rule, Quadratics(3), num_tasks=2, truncation=Truncation(window=2, horizon=6))
    pool = LocalPool(PES(problems), theta_of(rule), 2, config.seed)
    trainer = Noted(rule, pool, torch.optim.Adam(rule.parameters(), lr=config.lr))
    plain = to_plain(config)
    meta_train(
        trainer, steps, directory, save, checkpoint_every=EVERY, hyperparameters=plain, show_progress=False
    )  # `steps` may be changed between parts of a run, so they are not taken from the file that may be damaged


def files_of_run(folder: Path) -> dict[Path, Callable[[Path], Any]]:
    """Those of the run's files that l2o reads."""
    readers: dict[Path, Callable[[Path], Any]] = dict.fromkeys(RunDirectory(folder).checkpoints(), load_tree)
    return readers | {folder / "rule.safetensors": load, folder / "ledger.jsonl": audit, folder / "config.yaml": same}


def same(path: Path) -> None:
    """Settings are held against those of the newest checkpoint."""
    RunDirectory(path.parent).write_config(to_plain(read_config(path)))


def saving(folder: Path, steps: int = STEPS) -> None:
    """Save one version of a rule after the other under one name."""
    path = folder / "rule.safetensors"
    for version in range(1, steps + 1):
        save(version_of(version), path)
        DONE[0] = version


@cache
def version_of(number: int) -> UpdateRule:
    """A rule that differs from all others."""
    torch.manual_seed(0)
    rule = LSTMRule(hidden_size=16)
    for p in rule.parameters():
        p.data.fill_(float(number))
    return rule


def digest(rule: torch.nn.Module) -> str:
    """Of all parameters."""
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in rule.parameters())).hexdigest()


def saved_version(folder: Path) -> int:
    """Which version the folder holds; 0 before the first."""
    path = folder / "rule.safetensors"
    return int(next(load(path).parameters()).flatten()[0]) if path.exists() else 0


def checkpointed(folder: Path) -> int:
    """The step that the run would go on from."""
    state = RunDirectory(folder).newest()
    return 0 if state is None else int(state["trainer"]["num_steps"])


def file_of_weights(folder: Path) -> dict[Path, Callable[[Path], Any]]:
    """The one file."""
    return {folder / "rule.safetensors": load}


def weights_of(folder: Path) -> str:
    """A digest of what the folder gives to `load`."""
    return digest(load(folder))


SUBJECTS = {
    "meta-training": Subject(meta_training, weights_of, files_of_run, checkpointed, EVERY),
    "weights": Subject(saving, weights_of, file_of_weights, saved_version, 1),
}


class Outcome(NamedTuple):
    """What a fault did.

    subject, fault, file: what was struck, by what, where.
    told: what was said, if anything.
    lost: steps that had to be made again; None where the only copy was struck.
    recovered: whether the work ended as the work that nothing struck.
    """

    subject: str
    fault: str
    file: str
    told: str
    lost: int | None
    recovered: bool

    @property
    def silent(self) -> bool:
        """Harm without a word."""
        return not self.told and not self.recovered


def in_process(work: Callable[[], None]) -> tuple[int, str]:
    """Work in a process of its own; returns its number and where it will write what it says."""
    path = tempfile.mkstemp()[1]
    pid = os.fork()
    if pid:
        return pid, path
    try:
        work()
    except BaseException as error:
        Path(path).write_text(f"{type(error).__name__}: {error}")
        os._exit(1)
    os._exit(0)


def kill(subject: Subject, folder: Path, dice: random.Random, seconds: float) -> tuple[str, str]:
    """Kill the working process at a random moment before its end."""
    while True:
        DONE[0] = 0
        pid, path = in_process(lambda: subject.work(folder, STEPS))
        time.sleep(dice.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        Path(path).unlink()
        if os.WIFSIGNALED(status):
            return "", f"killed by signal {os.WTERMSIG(status)}"
        shutil.rmtree(folder)  # it was faster than ever: once more
        folder.mkdir()


def full_disk(subject: Subject, folder: Path, dice: random.Random, seconds: float) -> tuple[str, str]:
    """No file may grow beyond a random size."""
    limit = int(10 ** dice.uniform(0, 4.7))

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            subject.work(folder, STEPS)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    pid, path = in_process(work)
    os.waitpid(pid, 0)
    told = Path(path).read_text()
    Path(path).unlink()
    return "", told


def damage(subject: Subject, folder: Path, dice: random.Random, change: Callable[[bytes], bytes]) -> tuple[str, str]:
    """Change a random file of those that half of the work left, and read it."""
    subject.work(folder, STEPS // 2 // EVERY * EVERY + EVERY)
    readers = subject.files(folder)
    path = dice.choice(sorted(readers))
    path.write_bytes(change(path.read_bytes()))
    try:
        readers[path](path)
        return path.name, ""
    except ValueError as error:
        return path.name, str(error)


def truncated(subject: Subject, folder: Path, dice: random.Random, seconds: float) -> tuple[str, str]:
    """Cut a file off."""
    return damage(subject, folder, dice, lambda data: data[: dice.randrange(len(data))])


def flipped(subject: Subject, folder: Path, dice: random.Random, seconds: float) -> tuple[str, str]:
    """Change one byte of a file."""

    def flip(data: bytes) -> bytes:
        at = dice.randrange(len(data))
        return data[:at] + bytes([data[at] ^ dice.randrange(1, 256)]) + data[at + 1 :]

    return damage(subject, folder, dice, flip)


FAULTS = {"kill": kill, "full disk": full_disk, "truncated file": truncated, "flipped byte": flipped}


def strike(name: str, fault: str, dice: random.Random, seconds: float, whole: str) -> Outcome:
    """One fault, and the work that goes on after it.

    Arguments:
        seconds: that the work takes by itself.
        whole: the result of the work that nothing struck.
    """
    subject = SUBJECTS[name]
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        folder = Path(place)
        DONE[0] = 0
        file, told = FAULTS[fault](subject, folder, dice, seconds)
        lost = _lost(subject, folder, DONE[0])
        try:
            subject.work(folder, STEPS)
        except ValueError as error:  # it says what is damaged; that is put aside
            told = told or str(error)
            (folder / file).unlink()
            subject.work(folder, STEPS)
        told = told or "; ".join(str(one.message) for one in warned if one.category is UserWarning)
        return Outcome(name, fault, file, told, lost, subject.result(folder) == whole)


def _lost(subject: Subject, folder: Path, done: int) -> int | None:
    try:
        return done - subject.progress(folder)
    except ValueError:
        return None


def undisturbed(name: str) -> tuple[str, float]:
    """What the work ends with when nothing strikes it, and the seconds that it takes at least."""
    seconds = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as place:
            began = time.monotonic()
            os.waitpid(in_process(lambda place=place: SUBJECTS[name].work(Path(place), STEPS))[0], 0)  # type: ignore[misc]
            seconds.append(time.monotonic() - began)
            whole = SUBJECTS[name].result(Path(place))
    return whole, min(seconds)


def outcomes(config: Config) -> Iterator[Outcome]:
    """Faults of all kinds in turn; one in four strikes a file of weights, the others a run of meta-training."""
    config.out.mkdir(parents=True, exist_ok=True)
    kept = config.out / "outcomes.jsonl"
    done = [Outcome(*json.loads(line)) for line in kept.read_text().splitlines()] if kept.exists() else []
    yield from done[: config.num_faults]
    whole = {name: undisturbed(name) for name in SUBJECTS}
    began = time.monotonic()
    for i in range(len(done), config.num_faults):
        if time.monotonic() - began > 60 * config.minutes:
            return
        dice = random.Random(config.seed * 10**6 + i)
        name = list(SUBJECTS)[i // len(FAULTS) % 4 == 3]
        result, seconds = whole[name]
        outcome = strike(name, list(FAULTS)[i % len(FAULTS)], dice, seconds, result)
        with open(kept, "a") as file:
            file.write(json.dumps(outcome) + "\n")
        yield outcome


def run(config: Config) -> Iterator[dict[str, Any]]:
    """A row for each subject, fault and file."""
    found = list(outcomes(config))
    for key in sorted({_key(one) for one in found}):
        some = [one for one in found if _key(one) == key]
        row: dict[str, Any] = dict(zip(("subject", "fault", "file"), key, strict=True))
        row |= {"faults": len(some), "told": sum(bool(one.told) for one in some)}
        row |= {"recovered": sum(one.recovered for one in some), "silent": sum(one.silent for one in some)}
        row["most_steps_lost"] = max((one.lost for one in some if one.lost is not None), default=None)
        row["steps_between_checkpoints"] = SUBJECTS[key[0]].spare
        yield row | {"example": next((one.told for one in some if one.told), "")[:200]}


def _key(one: Outcome) -> tuple[str, str, str]:
    return one.subject, one.fault, "checkpoint" if one.file.startswith("step_") else one.file or "any"


def main(config: Config) -> None:
    """Strike, and write the rows."""
    print(f"rows: {write('faults', config, _told(run(config)), RESULTS if config.record else config.out)}")


def _told(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        print({name: row[name] for name in row if name != "example"}, flush=True)
        yield row


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))

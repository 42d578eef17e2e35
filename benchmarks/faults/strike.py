"""One fault, and the work that goes on after it."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.faults.subjects import DONE, EVERY, STEPS, SUBJECTS, Subject


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

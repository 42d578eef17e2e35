"""What faults strike: a run of meta-training, a file of weights, a library of skills."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from l2o.agents.skills.library import SkillLibrary
from l2o.agents.skills.skill import Skill
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
    config = (read_config(path) if path.exists() else MetaTrainConfig(seed=3, checkpoint_every=EVERY)).resolved()
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


@cache
def skill_of(number: int) -> Skill:
    """One of three skills, in a version that differs from all others; it grew out of the one before it."""
    parents = (number - 1,) if number > 1 else ()
    weights = {"w": torch.full((16, 16), float(number))}
    return Skill(torch.tensor([float(number % 3)]), weights, {"trial": float(number)}, parents)


def learning(folder: Path, steps: int = STEPS) -> None:
    """Add one skill after the other to a library, which must be whole."""
    path = folder / "skills.sqlite"
    if path.exists():
        whole_library(path)
    library = SkillLibrary(path)
    for number in range(len(library) + 1, steps + 1):
        library.add(skill_of(number))
        DONE[0] = number


def whole_library(path: Path) -> None:
    """Raise a ValueError where a skill is damaged, or the file."""
    if damaged := SkillLibrary(path).damaged():
        raise ValueError(f"skills {damaged} of {path} are damaged.")


def library_of(folder: Path) -> dict[Path, Callable[[Path], Any]]:
    """The one file."""
    return {folder / "skills.sqlite": whole_library}


def num_skills(folder: Path) -> int:
    """How many the library holds."""
    path = folder / "skills.sqlite"
    return len(SkillLibrary(path)) if path.exists() else 0


def skills_of(folder: Path) -> str:
    """A digest of all that the library holds."""
    library = SkillLibrary(folder / "skills.sqlite")
    found = [library.get(number) for number in range(1, len(library) + 1)]
    return hashlib.sha256(repr([(s.version, s.parents, s.weights["w"].tolist()) for s in found]).encode()).hexdigest()


SUBJECTS = {
    "meta-training": Subject(meta_training, weights_of, files_of_run, checkpointed, EVERY),
    "weights": Subject(saving, weights_of, file_of_weights, saved_version, 1),
    "library of skills": Subject(learning, skills_of, library_of, num_skills, 0),
}

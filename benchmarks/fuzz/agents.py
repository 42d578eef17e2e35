"""What an agent keeps: its library of skills, its lineage, its journal."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from benchmarks.fuzz.damage import JSON, changed, damaged
from l2o.agents.gate import Verdict
from l2o.agents.lineage import Lineage
from l2o.agents.skills.library import SkillLibrary
from l2o.agents.skills.skill import Skill, digest
from l2o.agents.spec import AgentSpec, Proposal
from l2o.agents.view import read_rounds

VALUES = (
    st.none()
    | st.sampled_from([0, 1, 2, 2**62, 0.5, "", "{}", "[]", "[1]", "[[", '{"a": NaN}', "null", "x" * 9, b"", b"1234"])
    | st.binary(max_size=9)
)
COLUMNS = ("descriptor", "version", "statistics", "parents", "weights")


@cache
def scratch() -> Path:
    """A folder to work in. Made before anything is drawn, since its name is random."""
    return Path(tempfile.mkdtemp(prefix="l2o-fuzz-"))


@cache
def library() -> bytes:
    """Of two skills, one of which grew out of the other, in two versions."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "skills.sqlite"
        kept = SkillLibrary(path)
        first = kept.add(Skill(torch.zeros(2), {"w": torch.zeros(2, 3)}, {"successes": 1.0}))
        for _ in range(2):
            kept.add(Skill(torch.ones(2), {"w": torch.ones(2, 3)}, {"successes": 2.0}, (first,)))
        return path.read_bytes()


@st.composite
def skills(draw: Callable[..., Any]) -> bytes:
    """Libraries with values that nobody wrote, of any kind, some under a digest that is right."""
    path = scratch() / "skills.sqlite"
    path.write_bytes(library())
    with closing(sqlite3.connect(path)) as db:
        for column in draw(st.lists(st.sampled_from([*COLUMNS, "digest"]), max_size=3)):
            row = draw(st.sampled_from([1, 2, 3]))
            try:
                db.execute(f"update skills set {column} = ? where id = ?", (draw(VALUES), row))
            except sqlite3.IntegrityError:
                continue
            if draw(st.booleans()):
                found = db.execute(f"select {', '.join(COLUMNS)} from skills where id = ?", (row,)).fetchone()
                with suppress(TypeError):  # of a kind that has no digest
                    db.execute("update skills set digest = ? where id = ?", (digest(*found), row))
        db.commit()
    return path.read_bytes()


def read_skills(path: Path) -> None:
    """All that a library is asked."""
    kept = SkillLibrary(path)
    kept.damaged()
    kept.nearest(torch.zeros(2), num=4)
    kept.warm_start(torch.zeros(2), {"w": torch.zeros(2, 3)})
    for number in (1, 2, 3):
        kept.lineage(number)
        kept.get(number)


@cache
def lived() -> Path:
    """The folder of a lineage of three trials."""
    folder = scratch() / "lived"
    lineage, spec = Lineage(folder), AgentSpec.of(policy=torch.zeros(3), tempo={"lr": 1.0})
    lineage.begin(spec)
    for number in range(3):
        verdict = Verdict(number != 1, "better" if number != 1 else "undecided", 8, 0.1, 1.0, 2.0)
        spec, _ = lineage.record(spec, Proposal("tempo", {"lr": float(number)}, "trial"), verdict)
    return folder


@st.composite
def lineages(draw: Callable[..., Any]) -> bytes:
    """Ledgers of a lineage, damaged or with other values in a line."""
    text = (lived() / "ledger.jsonl").read_bytes()
    if draw(st.booleans()):
        return bytes(draw(damaged(st.just(text))))
    lines = [json.loads(line) for line in text.splitlines()]
    at = draw(st.integers(0, len(lines) - 1))
    lines[at] = draw(changed(lines[at]))
    return rechained(lines) if draw(st.booleans()) else "".join(json.dumps(line) + "\n" for line in lines).encode()


def rechained(lines: list[Any]) -> bytes:
    """With checksums that are right."""
    found, chain = [], ""
    for line in lines:
        if isinstance(line, dict):
            line.pop("chain", None)
            chain = hashlib.sha256((chain + json.dumps(line, sort_keys=True)).encode()).hexdigest()[:16]
            line["chain"] = chain
        found.append(json.dumps(line))
    return "".join(line + "\n" for line in found).encode()


def read_lineage(path: Path) -> None:
    """A copy, because a lineage that is damaged is mended where it stands."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "agent"
        shutil.copytree(lived(), folder)
        (folder / "ledger.jsonl").write_bytes(path.read_bytes())
        lineage = Lineage(folder)
        lineage.spec()
        lineage.version("tempo", 1)


ROUND = {"number": 1, "skill": "a", "share": 0.5, "trials": [["a", "better", 0.1]], "report": {"b": 0.25}}


def journals() -> st.SearchStrategy[bytes]:
    """Of some rounds."""
    lines = st.lists(changed(ROUND, JSON) | st.just(ROUND), min_size=1, max_size=3)
    return damaged(lines.map(lambda some: "".join(json.dumps(line) + "\n" for line in some).encode()))


def read_journal(path: Path) -> None:
    """As the report does."""
    read_rounds(path.parent)

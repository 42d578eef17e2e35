"""What an agent has learned to do, kept in one SQLite file."""

from __future__ import annotations

import math
import os
import sqlite3
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from l2o.agents.skills.skill import Row, Skill, descriptor_in, digest, from_row, is_whole, numbers_in, to_row
from l2o.types import Params

APPLICATION, SCHEMA = 0x6C326F73, 1
"""Written into the file's header: whose it is, and the version of its tables."""

TABLES = """
create table skills (
    id integer primary key,
    descriptor blob not null,
    version integer not null,
    statistics text not null,
    parents text not null,
    weights blob not null,
    digest text not null,
    unique (descriptor, version)
)
"""

WAIT = 30.0
"""Seconds that a writer waits for the others."""


class Found(NamedTuple):
    """A skill of the library: its number, how far its descriptor was from the one asked for, and itself."""

    id: int
    distance: float
    skill: Skill


class SkillLibrary:
    """Skills in one file. Adding is atomic; other processes may read and add meanwhile.

    Every skill carries a digest of all that it is. One that does not fit its digest is told by a warning and passed
    over: the last whole version is found in its place. Nothing is ever executed, and nothing changed but by `forget`.

    Arguments:
        path: the file; made where there is none.

    Raises:
        ValueError: the file is no library of this version, or is damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.exists():
            self._make()
        if not self.path.stat().st_size:  # which SQLite takes for a new one
            raise ValueError(f"a library must be a whole SQLite file; {self.path} is damaged: it is empty.")
        with self._open() as db:
            found = tuple(db.execute(f"pragma {name}").fetchone()[0] for name in ("application_id", "user_version"))
            if found != (APPLICATION, SCHEMA):
                raise ValueError(
                    f"the file must be a library of skills, schema {SCHEMA}; {self.path} is another database, or of "
                    f"another version: {found}."
                )

    def _make(self) -> None:
        """An empty library, which appears whole; another process's that appears meanwhile is as good."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        os.close(handle)
        try:
            with self._open(name) as db:
                db.execute(TABLES)
                db.execute(f"pragma application_id = {APPLICATION}")
                db.execute(f"pragma user_version = {SCHEMA}")
            journal = Path(f"{self.path}-journal")
            if journal.exists() and not self.path.exists():  # SQLite would play it back into the new one
                raise ValueError(
                    f"a new library must not stand beside the journal of one that is gone; remove {journal}, or bring "
                    "its library back."
                )
            with suppress(FileExistsError):
                os.link(name, self.path)
        finally:
            os.unlink(name)

    def __len__(self) -> int:
        """Versions of all skills."""
        with self._open() as db:
            return int(db.execute("select count(*) from skills").fetchone()[0])

    def add(self, skill: Skill) -> int:
        """Keep a skill as the next version of its descriptor; returns its number.

        Raises:
            ValueError: a parent is not in the library, or weights or descriptor have other shapes than those there.
        """
        row = to_row(skill)
        with self._open() as db:
            db.execute("begin immediate")
            known = {number for (number,) in db.execute("select id from skills")}
            if not known.issuperset(skill.parents):
                raise ValueError(f"parents must be skills of the library; got {skill.parents}, of which some are not.")
            other = db.execute("select length(descriptor) from skills limit 1").fetchone()
            if other is not None and other[0] != len(row.descriptor):
                raise ValueError(
                    "descriptors of a library must be of one size; got "
                    f"{len(row.descriptor) // 4} numbers among {other[0] // 4}."
                )
            newest = db.execute("select max(version) from skills where descriptor = ?", (row.descriptor,)).fetchone()[0]
            row = row._replace(version=(newest or 0) + 1)
            cursor = db.execute(
                "insert into skills (descriptor, version, statistics, parents, weights, digest) "
                "values (?, ?, ?, ?, ?, ?)",
                (*row, digest(*row)),
            )
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def get(self, id: int) -> Skill:
        """The skill of a number.

        Raises:
            ValueError: there is none, or it is damaged.
        """
        with self._open() as db:
            row = db.execute(
                "select descriptor, version, statistics, parents, weights, digest from skills where id = ?", (id,)
            ).fetchone()
        if row is None:
            raise ValueError(f"id must be the number of a skill in {self.path}; got {id}.")
        if not is_whole(row):
            raise ValueError(f"a skill must be as it was written; number {id} of {self.path} is damaged.")
        try:
            return from_row(Row(*row[:-1]))
        except ValueError as error:
            raise ValueError(f"a skill must be whole; number {id} of {self.path} is not: {error}.") from error

    def nearest(self, descriptor: Float[Tensor, " d"], num: int = 1) -> list[Found]:
        """The skills nearest to a descriptor (Euclidean), each in its newest whole version, nearest first."""
        with self._open() as db:
            rows = db.execute("select descriptor, id from skills order by version desc").fetchall()
        if not rows:
            return []
        versions: dict[bytes, list[int]] = {}
        for key, id in rows:
            versions.setdefault(key, []).append(id)
        if len({len(key) if isinstance(key, bytes) else -1 for key in versions}) > 1:
            raise ValueError(f"descriptors of a library must be of one size; {self.path} is damaged.")
        places = torch.stack([descriptor_in(key) for key in versions])
        if places.shape[-1:] != descriptor.shape:
            raise ValueError(
                f"a descriptor must have {places.shape[-1]} numbers, as those in {self.path}; got {descriptor.shape}."
            )
        distance = (places - descriptor).norm(dim=-1)
        keys, found = list(versions), []
        for i in distance.argsort(stable=True).tolist():
            whole = self._newest_whole(versions[keys[i]])
            if whole is not None:
                found.append(Found(whole[0], float(distance[i]), whole[1]))
            if len(found) == num:
                break
        return found

    def nearest_fit(
        self, descriptor: Float[Tensor, " d"], fresh: Params, max_distance: float = math.inf
    ) -> Found | None:
        """The nearest skill whose weights have the shapes of `fresh`, if there is one so near."""
        shapes = {name: w.shape for name, w in fresh.items()}
        for one in self.nearest(descriptor, num=8):
            fits = {name: w.shape for name, w in one.skill.weights.items()} == shapes
            if fits and one.distance <= max_distance:
                return one
        return None

    def warm_start(self, descriptor: Float[Tensor, " d"], fresh: Params, max_distance: float = math.inf) -> Params:
        """Weights to begin a skill with: the nearest skill's if there is one so near that fits, else `fresh`."""
        found = self.nearest_fit(descriptor, fresh, max_distance)
        return fresh if found is None else {name: found.skill.weights[name].to(x) for name, x in fresh.items()}

    def ids(self) -> list[int]:
        """Numbers of all skills, in the order in which they were added."""
        with self._open() as db:
            return [row[0] for row in db.execute("select id from skills order by id")]

    def forget(self, ids: Iterable[int]) -> None:
        """Leave skills out, as if they had not been added; the numbers of the last ones are given again."""
        with self._open() as db:
            db.execute("begin immediate")
            db.executemany("delete from skills where id = ?", [(id,) for id in ids])

    def lineage(self, id: int) -> list[int]:
        """Numbers of a skill and all its ancestors, children before parents."""
        with self._open() as db:
            rows = db.execute("select id, parents from skills").fetchall()
        try:
            parents = {row[0]: numbers_in(row[1]) for row in rows}
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"parents must be numbers of skills; {self.path} is damaged: {error}.") from error
        found, todo = [], [id]
        while todo:
            one = todo.pop(0)
            if one in parents and one not in found:
                found.append(one)
                todo += parents[one]
        return found

    def damaged(self) -> list[int]:
        """Numbers of skills that are not as they were written.

        Raises:
            ValueError: the file itself is damaged.
        """
        with self._open() as db:
            verdict = db.execute("pragma integrity_check").fetchone()[0]
            if verdict != "ok":
                raise ValueError(f"a library must be whole; {self.path} is damaged: {verdict}.")
            rows = db.execute("select descriptor, version, statistics, parents, weights, digest, id from skills")
            return [row[-1] for row in rows if not is_whole(row[:-1])]

    def backup(self, path: Path | str) -> None:
        """A copy as of now, whoever is writing."""
        with self._open() as db, closing(sqlite3.connect(path)) as copy:
            db.backup(copy)

    def _newest_whole(self, ids: list[int]) -> tuple[int, Skill] | None:
        """The first of these that is whole."""
        for id in ids:
            try:
                return id, self.get(id)
            except ValueError as error:
                warnings.warn(f"{error} The version before it takes its place.", stacklevel=3)
        return None

    @contextmanager
    def _open(self, path: str | None = None) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction: kept if all goes well, else as if nothing had happened."""
        try:
            with closing(sqlite3.connect(path or self.path, timeout=WAIT, isolation_level=None)) as db:
                db.execute("pragma synchronous = full")
                try:
                    yield db
                    if db.in_transaction:
                        db.execute("commit")
                finally:
                    if db.in_transaction:
                        db.execute("rollback")
        except sqlite3.OperationalError as error:
            raise ValueError(f"a library must be a file that can be read and written; {self.path}: {error}.") from error
        except sqlite3.DatabaseError as error:
            raise ValueError(f"a library must be a whole SQLite file; {self.path} is damaged: {error}.") from error

import sqlite3
import threading

import pytest
import torch

from l2o.agents.skills.library import SkillLibrary
from l2o.agents.skills.skill import Skill


def skill(place, value=0.0, **options) -> Skill:
    return Skill(torch.tensor(place), {"w": torch.full((2, 3), value)}, **options)


def test_a_skill_comes_back_as_it_was_kept(tmp_path):
    library = SkillLibrary(tmp_path / "skills.db")
    first = library.add(skill([0.0, 1.0], 1.5, statistics={"success": 0.25}))
    second = library.add(skill([0.0, 1.0], 2.5, parents=(first,)))
    found = SkillLibrary(tmp_path / "skills.db").get(second)
    assert torch.equal(found.weights["w"], torch.full((2, 3), 2.5))
    assert (found.version, found.parents) == (2, (first,)) and found.descriptor.tolist() == [0.0, 1.0]
    assert library.get(first).statistics == {"success": 0.25} and library.get(first).version == 1
    assert library.lineage(second) == [second, first] and len(library) == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "skills.db"]  # one file


def test_the_nearest_skills_are_found_in_their_newest_version(tmp_path):
    library = SkillLibrary(tmp_path / "skills.db")
    assert library.nearest(torch.zeros(2)) == []
    for place, value in (([0.0, 0.0], 1.0), ([3.0, 0.0], 2.0), ([0.0, 0.0], 3.0), ([9.0, 9.0], 4.0)):
        library.add(skill(place, value))
    near = library.nearest(torch.tensor([1.0, 0.0]), num=2)
    assert [one.distance for one in near] == [1.0, 2.0]
    assert [float(one.skill.weights["w"][0, 0]) for one in near] == [3.0, 2.0]
    fresh = {"w": torch.zeros(2, 3)}
    assert library.warm_start(torch.tensor([8.0, 8.0]), fresh)["w"][0, 0] == 4.0
    assert library.warm_start(torch.tensor([50.0, 0.0]), fresh, max_distance=1.0) is fresh
    other = {"w": torch.zeros(5)}
    assert library.warm_start(torch.zeros(2), other) is other  # nobody's weights fit


def test_a_damaged_skill_is_told_and_the_version_before_it_is_found(tmp_path):
    path = tmp_path / "skills.db"
    library = SkillLibrary(path)
    good, bad = library.add(skill([1.0], 1.0)), library.add(skill([1.0], 2.0))
    with sqlite3.connect(path) as db:
        (blob,) = db.execute("select weights from skills where id = ?", (bad,)).fetchone()
        db.execute("update skills set weights = ? where id = ?", (blob[:-1] + b"\x01", bad))
    db.close()
    with pytest.raises(ValueError, match=f"number {bad} of .* is damaged"):
        library.get(bad)
    assert library.damaged() == [bad]
    with pytest.warns(UserWarning, match="The version before it takes its place"):
        (found,) = library.nearest(torch.tensor([1.0]))
    assert found.id == good and found.skill.weights["w"][0, 0] == 1.0


def test_a_new_library_is_not_made_beside_the_journal_of_one_that_is_gone(tmp_path):
    (tmp_path / "skills.db-journal").write_bytes(b"of another")
    with pytest.raises(ValueError, match="the journal of one that is gone"):
        SkillLibrary(tmp_path / "skills.db")
    assert [path.name for path in tmp_path.iterdir()] == ["skills.db-journal"]


def test_a_damaged_file_is_told(tmp_path):
    path = tmp_path / "skills.db"
    library = SkillLibrary(path)
    for i in range(20):
        library.add(skill([float(i)]))
    library.backup(tmp_path / "copy.db")
    data = bytearray(path.read_bytes())
    data[:4096] = b"x" * 4096
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        SkillLibrary(path)
    assert len(SkillLibrary(tmp_path / "copy.db")) == 20
    with sqlite3.connect(tmp_path / "other.db") as db:
        db.execute("create table mine (x)")
    db.close()
    with pytest.raises(ValueError, match="must be a library of skills"):
        SkillLibrary(tmp_path / "other.db")
    with pytest.raises(ValueError, match="read and written"):
        SkillLibrary(tmp_path)
    (tmp_path / "empty.db").touch()
    with pytest.raises(ValueError, match="is empty"):  # SQLite would take it for a new one
        SkillLibrary(tmp_path / "empty.db")


def test_a_skill_that_cannot_be_added_leaves_the_library_as_it_was(tmp_path):
    library = SkillLibrary(tmp_path / "skills.db")
    library.add(skill([1.0]))
    with pytest.raises(ValueError, match="of one size"):
        library.add(skill([1.0, 2.0]))
    with pytest.raises(ValueError, match="parents must be"):
        library.add(skill([2.0], parents=(7,)))
    with pytest.raises(ValueError, match="must be finite"):
        skill([float("nan")])
    with pytest.raises(ValueError, match="statistics must be finite"):
        skill([1.0], statistics={"success": float("inf")})
    with pytest.raises(ValueError, match="number of a skill"):
        library.get(9)
    with pytest.raises(ValueError, match="must have 1 numbers"):
        library.nearest(torch.zeros(3))
    assert len(library) == 1 and library.damaged() == []


def test_what_is_forgotten_is_as_if_it_had_never_been_added(tmp_path):
    library, other = SkillLibrary(tmp_path / "skills.db"), SkillLibrary(tmp_path / "other.db")
    ids = [library.add(skill([float(i)], float(i))) for i in range(4)]
    assert library.ids() == ids
    library.forget(ids[2:])
    for i in range(2):
        other.add(skill([float(i)], float(i)))
    assert library.ids() == other.ids() == ids[:2]
    assert library.add(skill([5.0], 5.0)) == other.add(skill([5.0], 5.0)) == ids[2]
    assert library.nearest(torch.tensor([3.0]))[0].distance == 2.0


def test_writers_and_readers_at_once_lose_nothing(tmp_path):
    library = SkillLibrary(tmp_path / "skills.db")
    seen, faults = [], []

    def write(value):
        try:
            for _ in range(5):
                library.add(skill([0.0], value))
        except ValueError as error:
            faults.append(error)

    def read():
        try:
            for _ in range(10):
                seen.extend(one.skill.version for one in library.nearest(torch.zeros(1)))
        except ValueError as error:
            faults.append(error)

    threads = [threading.Thread(target=write, args=(float(i),)) for i in range(3)]
    threads += [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults and len(library) == 15 and set(seen) <= set(range(1, 16))
    assert library.nearest(torch.zeros(1))[0].skill.version == 15

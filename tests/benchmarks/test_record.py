import pytest

from benchmarks.record import markdown, read, write


def test_rows_of_others_stay(tmp_path):
    write("some", {"steps": 1}, [{"run": "a", "score": 1.0}, {"run": "b", "score": 2.0}], tmp_path, by=("run",))
    write("some", {"steps": 2}, [{"run": "b", "score": 3.0}, {"run": "c", "score": 4.0}], tmp_path, by=("run",))
    rows = read("some", tmp_path)
    assert [(row["run"], row["score"]) for row in rows] == [("a", 1.0), ("b", 3.0), ("c", 4.0)]
    assert [row["config"]["steps"] for row in rows] == [1, 2, 2]  # each with what it came from
    write("some", {}, [{"run": "d"}], tmp_path)
    assert len(read("some", tmp_path)) == 1


def test_rows_are_there_as_soon_as_they_are_made(tmp_path):
    def rows():
        yield {"run": "a"}
        assert len(read("some", tmp_path)) == 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write("some", {}, rows(), tmp_path)
    assert len(read("some", tmp_path)) == 1


def test_numbers_that_json_does_not_have_are_refused(tmp_path):
    with pytest.raises(ValueError):
        write("some", {}, [{"score": float("nan")}], tmp_path)


def test_tables_have_their_caption_below_them():
    table = "| a | b |\n| --- | --- |\n| 1 |  |\n| 2 | x |"
    rows = [["1", ""], ["2", "x"]]
    assert markdown(["a", "b"], rows) == table
    assert markdown(("a", "b"), map(iter, rows), "All of it.") == f"{table}\n\nAll of it."

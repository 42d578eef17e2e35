import json
from pathlib import Path

import pytest
import torch

from l2o.tasks.data.text_tasks import Pair, TextTask, read_csv, read_json_lines, read_tasks, split_tasks
from l2o.tasks.text_episodes import CONTEXT, PAD, SCORED, Format, TextEpisodes, encode
from l2o.types import seeded


class Letters:
    """Each character is a token, but for a greedy merge that crosses what separates the parts."""

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text.replace("t\n", "\u2604")]

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids)).replace("\u2604", "t\n")


FORMAT = Format(Letters(), before="\n\n", longest=24)
TASK = TextTask(
    "birds",
    ("auk", "tit", "owl"),
    tuple(Pair(f"{option} {i} at", option) for option in ("auk", "tit", "owl") for i in range(4)),
    (Pair("dark night", "owl"), Pair("cold sea", "auk")),
)


def texts_of(x: torch.Tensor) -> list[str]:
    return [Letters().decode(row[0][row[1] != PAD].tolist()) for row in x.flatten(0, -3)]


def test_a_row_is_the_text_with_that_option_and_only_what_comes_second_is_scored() -> None:
    for method, text, scored in (("direct", "\n\ncold\nauk", "\nauk"), ("channel", "\n\nauk\ncold", "\ncold")):
        ids, roles = Format(Letters(), method, before="\n\n").row("cold", "auk")
        assert Letters().decode(ids) == text
        assert Letters().decode([i for i, role in zip(ids, roles, strict=True) if role == SCORED]) == scored
        assert set(roles) == {CONTEXT, SCORED}


def test_no_token_spans_the_boundary_of_input_and_option() -> None:
    together = Letters().encode("\n\nthat\nauk")
    ids, _ = FORMAT.row("that", "auk")
    assert together != ids and Letters().decode(ids) == "\n\nthat\nauk"  # "t\n" would have become one token
    prompts = {
        tuple(i for i, role in zip(*FORMAT.row("that", option), strict=True) if role == CONTEXT)
        for option in TASK.options
    }
    assert len(prompts) == 1


def test_the_end_of_a_long_input_is_left_out_never_the_option() -> None:
    for method, text in (("direct", "\n\nabcdefghijklmnopqr\nauk"), ("channel", "\n\nauk\nabcdefghijklmnopqr")):
        ids, _ = Format(Letters(), method, before="\n\n", longest=24).row("abcdefghijklmnopqrstuvwxyz", "auk")
        assert Letters().decode(ids)[: len(text)] == text and len(ids) == 24
    with pytest.raises(ValueError, match="leave room for the input within the 24 tokens"):
        FORMAT.row("cold", "x" * 30)


def test_episodes_show_every_option_equally_often_and_ask_for_others() -> None:
    family = TextEpisodes((TASK,), FORMAT, way=2, shot=2, query=3)
    _, options, shown, asked = family.draw(seeded(0))
    assert len(options) == 2 and options == sorted(options)
    assert sorted(pair.output for pair in shown) == sorted(options * 2)
    assert len(asked) == 3 and not set(asked) & set(shown)
    episode = family.sample(seeded(0))
    assert episode.support.x.shape[:3] == (4, 2, 2) and episode.support.y.tolist() == [
        options.index(p.output) for p in shown
    ]
    expected = [f"\n\n{pair.input}\n{option}" for pair in shown for option in options]
    assert texts_of(episode.support.x) == expected


def test_stacked_episodes_are_the_single_ones_filled_up() -> None:
    pairs = tuple(Pair("x" * i + "y", option) for option in ("a", "bb") for i in range(4))
    family = TextEpisodes((TASK, TextTask("two", ("a", "bb"), pairs)), FORMAT, way=3, shot=1, query=2)
    ways = set()
    for seed in range(8):
        many, generator = family.sample_many(seeded(seed), 4), seeded(seed)
        ways.add(way := family._way(generator))
        for i in range(4):
            one = family.encode(*family.draw(generator, way)[1:])
            n, options, _, length = one.query.x.shape
            assert torch.equal(many.query.x[i, :n, :options, :, :length], one.query.x)
            assert int(many.query.x[i].sum()) == int(one.query.x.sum())
            assert torch.equal(many.support.y[i], one.support.y)
    assert ways == {2, 3}


def test_queries_of_the_test_part_come_from_there() -> None:
    family = TextEpisodes((TASK.only(("auk", "owl")),), FORMAT, way=2, shot=4, query=2, part="test")
    _, _, shown, asked = family.draw(seeded(0))
    assert set(asked) == set(TASK.test) and len(shown) == 8


def test_without_demonstrations_there_is_only_a_question() -> None:
    episode = encode(FORMAT, TASK.options, (), (TASK.test[0],))
    assert episode.support.x.shape[:2] == (0, 3) and episode.query.y.tolist() == [2]


def test_json_lines_and_csv_are_read(tmp_path: Path) -> None:
    lines = [
        {"task": "mood", "input": "fine", "output": "good", "options": ["bad", "good"]},
        {"task": "mood", "input": "sad", "output": "bad", "options": ["bad", "good"]},
        {"task": "size", "input": "ant", "output": "small"},
        {"task": "size", "input": "elk", "output": "large"},
    ]
    (tmp_path / "some.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (tmp_path / "bank.csv").write_text('text,category\n"my card, it is lost",lost_card\nhello,small_talk\n')
    (tmp_path / "bank.test.csv").write_text("text,category\nwhere is it,lost_card\n")
    tasks = read_tasks(tmp_path)
    assert tasks.keys() == {"mood", "size", "bank"}
    assert tasks["mood"].options == ("bad", "good") and tasks["size"].options == ("small", "large")
    assert tasks["bank"].options == ("lost card", "small talk")
    assert tasks["bank"].train[0] == Pair("my card, it is lost", "lost card")
    assert tasks["bank"].test == (Pair("where is it", "lost card"),)
    train, held_out = split_tasks(tasks, ("size",))
    assert [t.name for t in train] == ["bank", "mood"] and [t.name for t in held_out] == ["size"]
    drawn = [{t.name for t in split_tasks(tasks, 1, seed)[1]} for seed in range(8)]
    assert (
        drawn == [{t.name for t in split_tasks(tasks, 1, seed)[1]} for seed in range(8)]
        and len(set().union(*drawn)) > 1
    )


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"input": "a", "output": "b"}\nnot json\n')
    with pytest.raises(ValueError, match=r"line 2 of .*bad.jsonl is not"):
        read_json_lines(bad)
    bad.write_text('{"input": ' + "[" * 100_000)
    with pytest.raises(ValueError, match=r"line 1 of .*RecursionError"):
        read_json_lines(bad)
    table = tmp_path / "table.csv"
    table.write_text("sentence,label\na,b\n")
    with pytest.raises(ValueError, match=r"lacks text, category \(its heading is sentence, label\)"):
        read_csv(table)
    assert read_csv(_two(table), text="sentence", label="label").options == ("b", "c")
    table.write_text("text,category\na,b\nc\n")
    with pytest.raises(ValueError, match=r"row 2 of .*table.csv is cut short"):
        read_csv(table)
    table.write_text(f"text,category\n{'x' * 200_000},b\n")
    with pytest.raises(ValueError, match=r"comma-separated values; .*field larger"):
        read_csv(table)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="a folder of tasks must have"):
        read_tasks(tmp_path / "empty")


def _two(table: Path) -> Path:
    table.write_text("sentence,label\na,b\nd,c\n")
    return table


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TextTask("t", ("a",), ()), "two at least"),
        (lambda: TextTask("t", ("a", "a"), ()), "all different"),
        (lambda: TextTask("t", ("a", " "), ()), "an option must have a visible character"),
        (lambda: TextTask("t", ("a", "b"), (Pair("x", "c"),)), r"has \['c'\] besides"),
        (lambda: Format(Letters(), "both"), "method must be direct or channel"),
        (lambda: Format(Letters(), between=""), "before and between must not be empty"),
        (lambda: TextEpisodes((), FORMAT), "need a task"),
        (lambda: TextEpisodes((TASK,), FORMAT, way=1), "way must be at least 2"),
        (lambda: TextEpisodes((TASK,), FORMAT, shot=4, query=1), "every option must have 5 training pairs"),
        (lambda: encode(FORMAT, ("a", "b"), (Pair("x", "c"),), ()), "an output must be one of"),
        (lambda: split_tasks({"a": TASK}, ("b",)), "held-out and validation tasks must be among a"),
        (lambda: split_tasks({"a": TASK}, ("a",)), "both sides of a split need a task"),
    ],
)
def test_impossible_tasks_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

"""Collections of text tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from benchmarks.fuzz.damage import JSON, changed, damaged
from l2o.tasks.data.text_collections import sentences

LINES = [
    {"task": "moods", "input": "what a day", "output": "glad", "options": ["glad", "sad"]},
    {"task": "moods", "input": "what a night", "output": "sad", "options": ["glad", "sad"]},
    {"input": "two and two", "output": "four"},
    {"input": "two and one", "output": "three"},
]
WORDS = ["text", "category", "text,category\n", ",", "\n", '"', "glad", "sad", "\0", "\r", "\ufeff", "é", "x" * 200_000]
CSV = st.lists(st.sampled_from(WORDS) | st.text(max_size=4), max_size=20).map(
    lambda words: ("text,category\na day,glad\na night,sad\n" + "".join(words)).encode(errors="replace")
)
SENTENCES = st.lists(st.sampled_from(["0 What is it ?", "5 How many ?", "9 x", "-1 y", "", "²", "0"]), max_size=5).map(
    lambda lines: "\n".join(lines).encode("latin-1")
)


@st.composite
def json_lines(draw: Callable[..., Any]) -> bytes:
    """Lines of tasks, some with other values."""
    lines = [draw(changed(line, JSON) | st.just(line)) for line in LINES]
    return draw(damaged(st.just("\n".join(map(json.dumps, lines)).encode())) | st.just(json.dumps(lines).encode()))


def read_sentences(path: Path) -> Any:
    """As a set whose files stand in the user's folder."""
    path.with_name("TREC.train.all").write_bytes(path.read_bytes())
    try:
        return sentences.__wrapped__("trec", str(path.parent))
    finally:
        path.with_name("TREC.train.all").unlink()

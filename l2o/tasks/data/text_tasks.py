"""Collections of text tasks: pairs of an input and one of a task's options, from JSON lines or CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from l2o.types import seeded


class Pair(NamedTuple):
    """A text, and which of the options is right for it."""

    input: str
    output: str


@dataclass(frozen=True)
class TextTask:
    """One task: pairs to show and train on, and others to be judged by.

    Arguments:
        name: for reports.
        options: all outputs there are, different and not empty.
        train: pairs that demonstrations and training come from.
        test: pairs that predictions are judged on.
    """

    name: str
    options: tuple[str, ...]
    train: tuple[Pair, ...]
    test: tuple[Pair, ...] = ()

    def __post_init__(self) -> None:
        check_options(self.options, f"task {self.name!r}")
        unknown = sorted({pair.output for pair in (*self.train, *self.test)} - set(self.options))
        if unknown:
            raise ValueError(
                f"outputs of a task must be among its options, because nothing else is ever said; task {self.name!r} "
                f"has {unknown[:3]} besides."
            )

    def of(self, option: str, part: str = "train") -> tuple[Pair, ...]:
        """The pairs with an option, of `train` or `test`."""
        return tuple(pair for pair in getattr(self, part) if pair.output == option)

    def only(self, options: Sequence[str], name: str | None = None) -> TextTask:
        """The task with some of its options and their pairs."""
        kept = set(options)
        train, test = (tuple(pair for pair in part if pair.output in kept) for part in (self.train, self.test))
        return TextTask(name or self.name, tuple(options), train, test)

    def head(self, train: int | None = None, test: int | None = None, seed: int = 0) -> TextTask:
        """The task with so many pairs of each part, drawn by `seed`; None leaves all."""

        def some(pairs: tuple[Pair, ...], num: int | None, seed: int) -> tuple[Pair, ...]:
            order = torch.randperm(len(pairs), generator=seeded(seed)).tolist()
            return pairs if num is None else tuple(pairs[i] for i in order[:num])

        return replace(self, train=some(self.train, train, 2 * seed), test=some(self.test, test, 2 * seed + 1))


def check_options(options: Sequence[str], of: str) -> None:
    """Raise a ValueError unless options are two at least, different, and say something."""
    if len(options) < 2 or len(set(options)) < len(options):
        raise ValueError(f"options must be two at least, all different, to choose from; {of} has {list(options)[:5]}.")
    if any(not option.strip() for option in options):
        raise ValueError(
            f"an option must have a visible character, because its likelihood is a mean over its tokens; {of} has "
            f"{[o for o in options if not o.strip()]!r}."
        )


def read_json_lines(path: str | Path, test: str | Path | None = None) -> dict[str, TextTask]:
    """Tasks by name from lines {"task", "input", "output", "options"}.

    Where `task` is missing the file's name is taken, where `options` is, all outputs of the task in their order.

    Arguments:
        test: another file of such lines, for the parts that predictions are judged on.

    Raises:
        ValueError: a line that is no such thing; it is told.
    """
    options: dict[str, dict[str, None]] = {}
    parts: list[dict[str, list[Pair]]] = []
    for source in (path, test):
        found: dict[str, list[Pair]] = {}
        for number, line in enumerate(_lines(source), start=1):
            try:
                values = json.loads(line)
                pair = Pair(str(values["input"]), str(values["output"]))
                name = str(values.get("task") or Path(path).stem)
                told = [str(option) for option in values.get("options") or [pair.output]]
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise ValueError(
                    'a line must be a JSON object with "input" and "output" (and "task", "options" where wished); '
                    f"line {number} of {source} is not: {error!r}."
                ) from error
            options.setdefault(name, {}).update(dict.fromkeys(told))
            found.setdefault(name, []).append(pair)
        parts.append(found)
    return {
        name: TextTask(name, tuple(of), tuple(parts[0].get(name, ())), tuple(parts[1].get(name, ())))
        for name, of in options.items()
    }


def read_csv(
    path: str | Path,
    test: str | Path | None = None,
    text: str = "text",
    label: str = "category",
    name: str | None = None,
) -> TextTask:
    """One task from comma-separated values with a heading; underscores in labels become spaces.

    Arguments:
        test: another such file, for the part that predictions are judged on.
        text, label: columns.
        name: None for the file's.

    Raises:
        ValueError: a column is missing, or a row is cut short.
    """
    parts = []
    for source in (path, test):
        try:
            rows = list(csv.DictReader(_lines(source)))
        except csv.Error as error:
            raise ValueError(f"the file must be comma-separated values; {source} is not: {error}.") from error
        missing = [column for column in (text, label) if rows and column not in rows[0]]
        if missing:
            raise ValueError(
                f"the file must have the columns {text} and {label}; {source} lacks {', '.join(missing)} (its heading "
                f"is {', '.join(map(str, rows[0]))})."
            )
        for number, row in enumerate(rows, start=1):
            if row[text] is None or row[label] is None:
                raise ValueError(f"each row must have a {text} and a {label}; row {number} of {source} is cut short.")
        parts.append(tuple(Pair(row[text].strip(), row[label].replace("_", " ").strip()) for row in rows))
    options = dict.fromkeys(sorted({pair.output for part in parts for pair in part}))
    return TextTask(name or Path(path).stem, tuple(options), *parts)


def read_tasks(folder: str | Path) -> dict[str, TextTask]:
    """All tasks of a folder: NAME.jsonl or NAME.csv, with NAME.test.jsonl or NAME.test.csv beside it if there is one.

    Raises:
        ValueError: there is none, or two have one name.
    """
    found: dict[str, TextTask] = {}
    for path in sorted(Path(folder).expanduser().iterdir()):
        if path.suffix not in (".jsonl", ".csv") or path.stem.endswith(".test"):
            continue
        beside = path.with_suffix(f".test{path.suffix}")
        test = beside if beside.exists() else None
        new = read_json_lines(path, test) if path.suffix == ".jsonl" else {path.stem: read_csv(path, test)}
        twice = sorted(found.keys() & new.keys())
        if twice:
            raise ValueError(f"tasks of a folder must have different names; {folder} has {twice[0]!r} twice.")
        found |= new
    if not found:
        raise ValueError(f"a folder of tasks must have .jsonl or .csv files; {folder} has none.")
    return found


def split_tasks(
    tasks: dict[str, TextTask], held_out: Collection[str] | int, seed: int = 0
) -> tuple[list[TextTask], list[TextTask]]:
    """Tasks to train on, and those that are held out.

    Arguments:
        held_out: their names, or how many are drawn by `seed`.

    Raises:
        ValueError: unknown names, or nothing is left on a side.
    """
    if isinstance(held_out, int):
        order = torch.randperm(len(tasks), generator=seeded(seed)).tolist()
        held_out = [sorted(tasks)[i] for i in order[:held_out]]
    unknown = sorted(set(held_out) - tasks.keys())
    if unknown:
        raise ValueError(
            f"held-out and validation tasks must be among {', '.join(sorted(tasks))}; got {', '.join(unknown)}."
        )
    sides = [task for name, task in tasks.items() if name not in held_out], [tasks[name] for name in held_out]
    if not all(sides):
        raise ValueError(
            f"both sides of a split need a task; got {len(sides[0])} to train on, {len(sides[1])} held out."
        )
    return sides


def _lines(path: str | Path | None) -> Iterable[str]:
    if path is None:
        return []
    return Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()

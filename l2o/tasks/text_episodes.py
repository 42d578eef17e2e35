"""Text tasks as episodes of tokens: what MetaICL shows a language model (Min et al., 2022,
https://arxiv.org/abs/2110.15943).

An example is a row of tokens for each option: the text that it would be with that option, every token with a role.
Which part is scored makes the method: the option after the input (direct), or the input after the option (channel,
Min et al., 2022, https://arxiv.org/abs/2108.04106).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Generator, Tensor

from l2o.tasks.base import choose
from l2o.tasks.data.text_tasks import Pair, TextTask, check_options
from l2o.tasks.episodes import Episode, EpisodeFamily, Examples

PAD, CONTEXT, SCORED = 0, 1, 2
"""Roles of tokens: not there, read only, read and scored."""

SYMBOLS = ("foo", "bar", "baz", "qux", "alpha", "beta", "gamma", "delta", "one", "two", "three", "four")
"""Names of options that say nothing of what they mean."""


@runtime_checkable
class Tokens(Protocol):
    """What turns text into tokens, without any of its own at the ends."""

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        ...


@dataclass(frozen=True)
class Format:
    """How a pair becomes tokens.

    Each of its parts (separator with what comes first, separator with what comes second) is tokenized by itself, as
    the paper's authors do: no token then spans their boundary, whatever the tokenizer would merge there, and the
    prompt of all options of an input is the same.

    Arguments:
        tokens: the tokenizer.
        method: direct, P(output | input), or channel, P(input | output).
        before: stands before every pair, the first one too, so that all are alike.
        between: stands between input and output, or output and input; scored with what follows it.
        longest: tokens of a pair; of longer ones the input's end is left out.
    """

    tokens: Tokens
    method: str = "direct"
    before: str = "\n\n\n"
    between: str = "\n"
    longest: int = 256

    def __post_init__(self) -> None:
        if self.method not in ("direct", "channel"):
            raise ValueError(f"method must be direct or channel; got {self.method!r}.")
        if not self.before or not self.between:
            raise ValueError(
                "before and between must not be empty, because the first scored token needs one before it; got "
                f"{self.before!r} and {self.between!r}."
            )

    def row(self, text: str, option: str) -> tuple[list[int], list[int]]:
        """Tokens and roles of an input with an option.

        Raises:
            ValueError: the option has no tokens, or leaves no room for the input.
        """
        if not self.tokens.encode(option):
            raise ValueError(f"an option must have tokens, or it has no likelihood; {option!r} has none.")
        if self.method == "direct":
            first, second = self.tokens.encode(self.before + text), self.tokens.encode(self.between + option)
            first = first[: self._room(option, second)]
        else:
            first, second = self.tokens.encode(self.before + option), self.tokens.encode(self.between + text)
            second = second[: self._room(option, first)]
        return first + second, [CONTEXT] * len(first) + [SCORED] * len(second)

    def rows(self, texts: Sequence[str], options: Sequence[str]) -> Int[Tensor, "n options 2 length"]:
        """Tokens (0) and roles (1) of every input with every option, filled up with PAD."""
        return pad([[self.row(text, option) for option in options] for text in texts])

    def _room(self, option: str, tokens: list[int]) -> int:
        left = self.longest - len(tokens)
        if left < 1:
            raise ValueError(
                f"an option must leave room for the input within the {self.longest} tokens of a pair (longest); "
                f"{option[:60]!r} has {len(tokens)} with its separator."
            )
        return left


def pad(rows: Sequence[Sequence[tuple[list[int], list[int]]]]) -> Int[Tensor, "n options 2 length"]:
    """Rows of tokens and roles as one tensor; where an input has fewer options than others, rows of PAD."""
    length = max((len(ids) for of_input in rows for ids, _ in of_input), default=0)
    options = max((len(of_input) for of_input in rows), default=0)
    found = torch.zeros(len(rows), options, 2, length, dtype=torch.int64)
    for i, of_input in enumerate(rows):
        for j, (ids, roles) in enumerate(of_input):
            found[i, j, 0, : len(ids)], found[i, j, 1, : len(ids)] = torch.tensor(ids), torch.tensor(roles)
    return found


@dataclass(frozen=True)
class TextEpisodes(EpisodeFamily):
    """Episodes of text tasks: some options of a random task, demonstrations of each in random order, and queries.

    `x` has a row of tokens and one of roles for each option, `y` is the number of the right one.

    Arguments:
        tasks: of which each episode draws one.
        format: how pairs become tokens.
        way: options in an episode; where a drawn task has fewer, as many as that. Episodes of one batch have equally
            many, so that they stack.
        shot: demonstrations of each option; may be none.
        query: queries, of any of the options.
        part: train or test, where queries come from; demonstrations are always from train.
        symbols: share of episodes whose options are renamed to `SYMBOLS` at random, so that only the demonstrations say
            what they mean (Wei et al., 2023, https://arxiv.org/abs/2305.08298).
    """

    tasks: tuple[TextTask, ...]
    format: Format
    way: int = 4
    shot: int = 1
    query: int = 1
    part: str = "train"
    symbols: float = 0.0

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("episodes need a task to be drawn from; got none.")
        if self.way < 2 or self.shot < 0 or self.query < 1:
            raise ValueError(
                f"way must be at least 2, shot 0 and query 1; got {self.way}, {self.shot} and {self.query}."
            )
        if not 0 <= self.symbols <= 1 or self.way > len(SYMBOLS):
            raise ValueError(
                f"symbols must be a share from 0 to 1, and way no more than the {len(SYMBOLS)} of them; got "
                f"{self.symbols} and {self.way}."
            )
        if self.part not in ("train", "test"):
            raise ValueError(f"part must be train or test; got {self.part!r}.")
        for task in self.tasks:
            counts = [len(task.of(option)) for option in task.options]
            needed = self.shot + (self.part == "train")
            if min(counts) < needed:
                raise ValueError(
                    f"every option must have {needed} training pairs, because those of an episode are different ones; "
                    f"one of task {task.name!r} has {min(counts)}."
                )

    def sample(self, generator: Generator) -> Episode:
        _, options, demonstrations, queries = self.draw(generator)
        return self.encode(options, demonstrations, queries)

    def sample_many(self, generator: Generator, num: int) -> Episode:
        way = self._way(generator)
        drawn = [self.encode(*self.draw(generator, way)[1:]) for _ in range(num)]
        parts = [[getattr(episode, part) for episode in drawn] for part in ("support", "query")]
        return Episode(*(Examples(_same(part), torch.stack([e.y for e in part])) for part in parts))

    def draw(self, generator: Generator, way: int | None = None) -> tuple[TextTask, list[str], list[Pair], list[Pair]]:
        """A task, its options in this episode, demonstrations, and queries.

        Arguments:
            way: options, of any task that has so many; None for as many as the drawn task has, up to the usual way.
        """
        way = self._way(generator) if way is None else way
        task: TextTask = choose([task for task in self.tasks if len(task.options) >= way], generator)
        order = torch.randperm(len(task.options), generator=generator).tolist()
        options = sorted(task.options[i] for i in order[:way])
        demonstrations, rest = [], []
        for option in options:
            pairs = task.of(option)
            shuffled = torch.randperm(len(pairs), generator=generator).tolist()
            demonstrations += [pairs[i] for i in shuffled[: self.shot]]
            rest += [pairs[i] for i in shuffled[self.shot : self.shot + self.query]]
        pool = rest if self.part == "train" else [pair for option in options for pair in task.of(option, "test")]
        if len(pool) < self.query:
            raise ValueError(f"task {task.name!r} must have {self.query} queries; it has {len(pool)} of {options}.")
        mixed = torch.randperm(len(demonstrations), generator=generator).tolist()
        chosen = torch.randperm(len(pool), generator=generator)[: self.query].tolist()
        shown, asked = [demonstrations[i] for i in mixed], [pool[i] for i in chosen]
        if self.symbols and float(torch.rand((), generator=generator)) < self.symbols:
            options, (shown, asked) = renamed(options, (shown, asked), generator)
        return task, options, shown, asked

    def encode(self, options: Sequence[str], demonstrations: Sequence[Pair], queries: Sequence[Pair]) -> Episode:
        """Given pairs as an episode."""
        return encode(self.format, options, demonstrations, queries)

    def _way(self, generator: Generator) -> int:
        return min(self.way, len(choose(self.tasks, generator).options))


def renamed(
    options: Sequence[str], parts: Sequence[Sequence[Pair]], generator: Generator
) -> tuple[list[str], list[list[Pair]]]:
    """Options renamed to `SYMBOLS` at random, and the pairs of each part with these names.

    Raises:
        ValueError: there are more options than symbols.
    """
    if len(options) > len(SYMBOLS):
        raise ValueError(
            f"options to rename must be no more than the {len(SYMBOLS)} symbols, or two would have one name; got "
            f"{len(options)}."
        )
    order = torch.randperm(len(SYMBOLS), generator=generator).tolist()
    name = {option: SYMBOLS[i] for option, i in zip(options, order, strict=False)}
    return sorted(name.values()), [[Pair(pair.input, name[pair.output]) for pair in part] for part in parts]


def encode(format: Format, options: Sequence[str], demonstrations: Sequence[Pair], queries: Sequence[Pair]) -> Episode:
    """Pairs as an episode of tokens.

    Raises:
        ValueError: outputs that are no options, and options that are none.
    """
    check_options(options, "an episode")
    number = {option: i for i, option in enumerate(options)}

    def part(pairs: Sequence[Pair]) -> Examples:
        unknown = [pair.output for pair in pairs if pair.output not in number]
        if unknown:
            raise ValueError(f"an output must be one of {list(options)}; got {unknown[0]!r}.")
        x = format.rows([pair.input for pair in pairs], options)
        x = x if len(pairs) else x.new_zeros(0, len(options), 2, 1)
        return Examples(x, torch.tensor([number[pair.output] for pair in pairs], dtype=torch.int64))

    return Episode(part(demonstrations), part(queries))


def _same(parts: Sequence[Examples]) -> Int[Tensor, "num n options 2 length"]:
    """Rows of several episodes, filled up to one shape."""
    shape = [max(e.x.shape[axis] for e in parts) for axis in range(4)]
    found = parts[0].x.new_zeros(len(parts), *shape)
    for i, example in enumerate(parts):
        n, options, _, length = example.x.shape
        found[i, :n, :options, :, :length] = example.x
    return found

"""Text as a sequence of character codes, in two parts, training and validation."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from jaxtyping import Int, Integer, UInt8
from torch import Generator, Tensor

from l2o.tasks.data.dataset import Loaded, loader
from l2o.tasks.data.fetch import Remote, locate


@dataclass(frozen=True, eq=False, repr=False)
class Text(Loaded):
    """Characters as codes 0 .. len(alphabet) - 1.

    Arguments:
        name: for reports.
        train: codes that training draws windows from.
        validation: codes that training never sees.
        alphabet: the character of each code.
    """

    train: UInt8[Tensor, " n"]
    validation: UInt8[Tensor, " m"]
    alphabet: str

    @property
    def num_classes(self) -> int:
        """Size of the alphabet."""
        return len(self.alphabet)

    def split(self, fraction: float = 0.5) -> tuple[Text, Text]:
        """Two texts without a common character: the first `fraction` of both parts, and the rest."""
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must lie between 0 and 1, because both sides need text; got {fraction}.")
        return _side(self, fraction, False), _side(self, fraction, True)

    def decode(self, codes: Integer[Tensor, " n"]) -> str:
        """The characters of codes."""
        return "".join(self.alphabet[i] for i in codes.tolist())


def draw_windows(
    codes: UInt8[Tensor, " n"], length: int, generator: Generator, *shape: int
) -> tuple[Int[Tensor, "*shape length"], Int[Tensor, "*shape length"]]:
    """Random windows of text and, for each character of them, the one that follows."""
    if len(codes) <= length:
        raise ValueError(
            f"a text must be longer than a window of {length} characters and the one after it; got {len(codes)}."
        )
    start = torch.randint(len(codes) - length, shape, generator=generator)
    windows = codes[start.unsqueeze(-1) + torch.arange(length + 1)].long()
    return windows[..., :-1], windows[..., 1:]


def encode(name: str, text: str, validation: float = 0.1) -> Text:
    """A `Text` from a string; its last part is kept for validation."""
    alphabet = "".join(sorted(set(text)))
    if len(alphabet) > 256:
        raise ValueError(f"a character text may use 256 different characters; {name!r} uses {len(alphabet)}.")
    code = {character: i for i, character in enumerate(alphabet)}
    codes = torch.tensor([code[character] for character in text], dtype=torch.uint8)
    at = len(codes) - round(validation * len(codes))
    return Text(name, codes[:at], codes[at:], alphabet)


@loader
def _side(whole: Text, fraction: float, rest: bool) -> Text:
    def cut(codes: Tensor) -> Tensor:
        at = round(fraction * len(codes))
        return codes[at:] if rest else codes[:at]

    name = f"{whole.name} ({'last' if rest else 'first'} {1 - fraction if rest else fraction:g})"
    return Text(name, cut(whole.train), cut(whole.validation), whole.alphabet)


@loader
def shakespeare() -> Text:
    """The first 200 kB of tiny Shakespeare; in the package."""
    path = files("l2o.tasks.data") / "files" / "shakespeare.txt"
    return encode("shakespeare", path.read_text(encoding="utf-8"))


# Verified here against the file itself.
TINY_SHAKESPEARE = Remote(
    "tinyshakespeare.txt",
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)


@loader
def tiny_shakespeare(root: str | None = None) -> Text:
    """All of tiny Shakespeare, 1.1 MB (Karpathy, 2015): `[text/]tinyshakespeare.txt`, or downloaded."""
    path = locate(TINY_SHAKESPEARE, ("tinyshakespeare.txt", "text/tinyshakespeare.txt"), root)
    return encode("tiny_shakespeare", path.read_text(encoding="utf-8"))


@loader
def text_file(path: str, validation: float = 0.1) -> Text:
    """Any UTF-8 text file of at most 256 different characters."""
    return encode(Path(path).name, Path(path).read_text(encoding="utf-8"), validation)

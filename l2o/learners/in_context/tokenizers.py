"""Tokenizers: that of llama2.c's checkpoints, and any of Hugging Face's."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from l2o.files import write_atomically


class LlamaTokens:
    """Byte-pair encoding as in llama2.c: the pair whose union has the highest score is merged until none is a piece.

    What is no piece goes byte by byte. Nothing is put before a text, neither a beginning nor a space.

    Arguments:
        pieces: of text, by number; the first three are unknown, beginning and end, the next 256 are bytes.
        scores: of each.
    """

    start = 1

    def __init__(self, pieces: list[bytes], scores: list[float]) -> None:
        self.pieces, self.scores = pieces, scores
        self.number = {piece: i for i, piece in enumerate(pieces) if i >= 259}
        self.encode = lru_cache(maxsize=100_000)(self._encode)  # type: ignore[method-assign]

    @classmethod
    def read(cls, path: str | Path) -> LlamaTokens:
        """From a file such as tok512.bin: the length of the longest piece, then score, length and bytes of each.

        Raises:
            ValueError: the file is cut short, or has no pieces.
        """
        data, at = Path(path).expanduser().read_bytes(), 4
        pieces: list[bytes] = []
        scores: list[float] = []
        while at < len(data):
            if at + 8 > len(data):
                raise ValueError(f"a tokenizer's file must be whole; {path} ends within piece {len(pieces)}.")
            score, length = struct.unpack_from("<fi", data, at)
            piece = data[at + 8 : at + 8 + length]
            if length < 0 or len(piece) < length:
                raise ValueError(f"a tokenizer's file must be whole; {path} ends within piece {len(pieces)}.")
            pieces.append(piece)
            scores.append(score)
            at += 8 + length
        if len(pieces) < 259:
            raise ValueError(
                f"a tokenizer must have pieces for the 256 bytes and three more; {path} has {len(pieces)}."
            )
        return cls(pieces, scores)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        return self._encode(text)

    def _encode(self, text: str) -> list[int]:
        parts: list[bytes] = []
        for character in text:
            raw = character.encode()
            parts += [raw] if raw in self.number else [bytes([byte]) for byte in raw]
        ids = [self.number.get(part, part[0] + 3) for part in parts]
        while len(parts) > 1:
            unions = [a + b for a, b in pairwise(parts)]
            known = [(self.scores[self.number[u]], -i) for i, u in enumerate(unions) if u in self.number]
            if not known:
                break
            i = -max(known)[1]
            parts[i : i + 2], ids[i : i + 2] = [unions[i]], [self.number[unions[i]]]
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of tokens."""
        return b"".join(bytes([i - 3]) if 3 <= i < 259 else self.pieces[i] for i in ids if i >= 3).decode(
            errors="replace"
        )

    def __len__(self) -> int:
        return len(self.pieces)

    def __reduce__(self) -> tuple[Any, ...]:
        return LlamaTokens, (self.pieces, self.scores)


class HubTokens:
    """A tokenizer of `transformers` or `tokenizers`, without what it puts at the ends.

    Arguments:
        tokenizer: what has `encode(text, add_special_tokens=False)`.
        start: the token that a prompt begins with; None for its own beginning, or end, of text.
    """

    def __init__(self, tokenizer: Any, start: int | None = None) -> None:
        self.tokenizer = tokenizer
        if start is None:
            for name in ("bos_token_id", "eos_token_id"):
                start = getattr(tokenizer, name, None) if start is None else start
        self.start = start
        self._cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        if text not in self._cache:
            found = self.tokenizer.encode(text, add_special_tokens=False)
            self._cache[text] = list(getattr(found, "ids", found))
        return self._cache[text]

    def decode(self, ids: list[int]) -> str:
        """The text of tokens."""
        return self.tokenizer.decode(ids)

    def __len__(self) -> int:
        return len(self.tokenizer) if hasattr(self.tokenizer, "__len__") else self.tokenizer.get_vocab_size()


def train_tokens(texts: Iterable[str], size: int, path: str | Path) -> None:
    """Make a byte-level tokenizer of `size` pieces from texts, and write it to a file; its first piece is the start.

    Raises:
        ValueError: too few pieces for the 256 bytes and the start.
    """
    if size < 257:
        raise ValueError(f"a byte-level tokenizer needs a piece for each of 256 bytes and the start; got {size}.")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    write_atomically(Path(path), tokenizer.to_str().encode())


def read_tokens(path: str | Path) -> HubTokens:
    """The tokenizer that `train_tokens` wrote."""
    from tokenizers import Tokenizer

    return HubTokens(Tokenizer.from_file(str(path)), start=0)

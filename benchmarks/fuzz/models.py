"""Language models and tokenizers in the format of llama2.c."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from benchmarks.fuzz.damage import damaged
from l2o.learners.in_context.language_model import pretrained

SIZES = (8, 12, 1, 2, 1, 260, 16)
"""Width, that of the perceptrons, depth, heads, those of keys, pieces, window."""
NUMBERS = st.integers(-2, 20) | st.sampled_from([259, 260, 2**16, 2**31 - 1, -(2**31), -260])


def header(sizes: tuple[int, ...]) -> bytes:
    """Of a checkpoint."""
    return struct.pack("<7i", *sizes)


def num_weights(dim: int, hidden: int, depth: int, heads: int, kv_heads: int, vocabulary: int, window: int) -> int:
    """Of a checkpoint with tied embeddings."""
    keys = kv_heads * (dim // heads)
    layer = 2 * dim + 2 * dim * dim + 2 * dim * keys + 3 * dim * hidden
    return vocabulary * dim + depth * layer + dim + window * (dim // heads)


@cache
def llama() -> bytes:
    """A whole checkpoint."""
    return header(SIZES) + bytes(4 * num_weights(*SIZES))


@cache
def tokens() -> bytes:
    """A whole tokenizer: three pieces, the bytes, and one more."""
    pieces = [b"<unk>", b"<s>", b"</s>", *(f"<0x{i:02X}>".encode() for i in range(256)), b"ab"]
    return struct.pack("<i", 6) + b"".join(struct.pack("<fi", 0.0, len(piece)) + piece for piece in pieces)


@st.composite
def model_files(draw: Callable[..., Any]) -> bytes:
    """Checkpoints with other sizes, and as many weights as they say where that is few."""
    sizes = list(SIZES)
    for i in draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=3)):
        sizes[i] = draw(NUMBERS)
    num = num_weights(*sizes) if sizes[3] else 0  # type: ignore[arg-type]
    body = bytes(4 * num) if 0 < num < 10**6 and draw(st.integers(0, 3)) else bytes(100)
    return draw(st.just(header(tuple(sizes)) + body) | damaged(st.just(header(tuple(sizes)) + body)))


def read_model(path: Path) -> None:
    """And predict a token with it."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / path.name
        copy.write_bytes(path.read_bytes())
        copy.with_name("tok260.bin").write_bytes(tokens())
        model, encoded = pretrained(str(copy))
        with torch.no_grad():
            model(torch.tensor([encoded.encode("ab")[: model.window]]))

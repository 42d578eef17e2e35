"""Text: a transformer and an LSTM over characters, and vectors of words."""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from benchmarks.optimizers.problem import Batch, Problem, some
from l2o.tasks.data import Part, Text, encode, loader
from l2o.tasks.data.fetch import Remote, locate
from l2o.tasks.data.text import draw_windows
from l2o.types import seeded

NAMES = Remote(
    "names.txt",
    "https://raw.githubusercontent.com/karpathy/makemore/master/names.txt",
    "sha256:0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
)
BANKING = Remote(
    "banking77_train.csv",
    "https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/master/banking_data/train.csv",
    "sha256:b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
)


@loader
def names() -> Text:
    """32,033 first names, one a line, in random order."""
    lines = locate(NAMES, ("names.txt", "text/names.txt")).read_text().split()
    return encode("names", "".join(f"{lines[i]}\n" for i in torch.randperm(len(lines), generator=seeded(0))))


@lru_cache
def questions() -> list[str]:
    """10,003 questions to a bank (Casanueva et al., 2020) in random order, in small letters."""
    path = locate(BANKING, ("banking77_train.csv", "text/banking77_train.csv"))
    with open(path, encoding="utf-8", newline="") as file:
        lines = [" ".join(row["text"].lower().split()) for row in csv.DictReader(file)]
    return [lines[i] for i in torch.randperm(len(lines), generator=seeded(0))]


@loader
def banking() -> Text:
    """The questions as one text, one a line; what is not a letter, a digit or usual punctuation is left out."""
    return encode("banking", "".join(re.sub(r"[^a-z0-9 .,?!'$-]", "", line) + "\n" for line in questions()))


@dataclass(frozen=True)
class Characters(Problem):
    """Which character comes next? Cross-entropy over windows of a text."""

    batch_size: int = 16
    length: int = 32

    def text(self) -> Text:
        """What is read."""
        return banking()

    def draw(self, generator: Generator) -> Batch:
        return draw_windows(self.text().train, self.length, generator, self.batch_size)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten())

    def held_out(self) -> list[Batch]:
        return [draw_windows(self.text().validation, self.length, seeded(i), 64) for i in range(8)]


class GPTNetwork(nn.Module):
    """A causal transformer, layers normalised before."""

    def __init__(self, num_characters: int, width: int, depth: int, length: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_characters, width)
        self.position = nn.Embedding(length, width)
        for embedding in (self.embed, self.position):
            nn.init.normal_(embedding.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, num_characters, bias=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))

    def forward(self, x: Tensor) -> Tensor:
        z = self.embed(x) + self.position.weight[: x.shape[1]]
        return self.head(self.layers(z, mask=self.mask[: x.shape[1], : x.shape[1]], is_causal=True))


@dataclass(frozen=True)
class GPT(Characters):
    """A causal transformer of three layers on questions to a bank."""

    width: int = 96
    depth: int = 3

    def model(self) -> nn.Module:
        return GPTNetwork(self.text().num_classes, self.width, self.depth, self.length)


LARGE = GPT(batch_size=32, length=256, width=384, depth=6)
"""For a GPU: 10.8 million parameters."""


class RecurrentNetwork(nn.Module):
    """An embedding, an LSTM, a head."""

    def __init__(self, num_characters: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_characters, embedding)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
        self.head = nn.Linear(hidden, num_characters)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(x))[0])


@dataclass(frozen=True)
class LSTM(Characters):
    """An LSTM on first names."""

    batch_size: int = 32
    length: int = 24
    embedding: int = 32
    hidden: int = 128

    def text(self) -> Text:
        return names()

    def model(self) -> nn.Module:
        return RecurrentNetwork(self.text().num_classes, self.embedding, self.hidden)


class WordVectors(nn.Module):
    """One vector for a word, one for it as a neighbour."""

    def __init__(self, num_words: int, width: int) -> None:
        super().__init__()
        self.embed, self.neighbour = nn.Embedding(num_words, width), nn.Embedding(num_words, width)
        nn.init.uniform_(self.embed.weight, -0.5 / width, 0.5 / width)
        nn.init.zeros_(self.neighbour.weight)

    def forward(self, words: Tensor, others: Tensor) -> Tensor:
        return torch.einsum("bd,bkd->bk", self.embed(words), self.neighbour(others))


@lru_cache
def pairs() -> tuple[Part, Part, Tensor]:
    """Of the questions."""
    return neighbours(questions())


def neighbours(text: list[str], window: int = 3, least: int = 5) -> tuple[Part, Part, Tensor]:
    """Words and their neighbours in a line, to train and (each tenth line) to validate; weights of words as noise."""
    lines = [re.findall(r"[a-z']+", line) for line in text]
    counts = Counter(word for line in lines for word in line)
    index = {word: i for i, (word, count) in enumerate(counts.most_common()) if count >= least}
    found: tuple[list[tuple[int, int]], ...] = ([], [])
    for number, line in enumerate(lines):
        codes = [index[word] for word in line if word in index]
        side = found[number % 10 == 0]
        side += [(a, b) for i, a in enumerate(codes) for b in codes[max(0, i - window) : i + window + 1] if b != a]
    noise = torch.tensor([float(counts[word]) for word in index]) ** 0.75  # Mikolov et al. (2013b), section 2.2
    train, validation = (torch.tensor(side) for side in found)
    return Part(train[:, 0], train[:, 1]), Part(validation[:, 0], validation[:, 1]), noise


@dataclass(frozen=True)
class SkipGram(Problem):
    """Vectors of words from their neighbours, against five words of noise (Mikolov et al., 2013b)."""

    batch_size: int = 256
    width: int = 64
    negatives: int = 5

    def model(self) -> nn.Module:
        return WordVectors(len(pairs()[2]), self.width)

    def draw(self, generator: Generator) -> Batch:
        train, _, noise = pairs()
        return self._among(*train.draw(generator, self.batch_size), noise, generator)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        words, others = batch
        target = torch.zeros(others.shape, dtype=torch.float32, device=others.device)
        target[:, 0] = 1.0
        return F.binary_cross_entropy_with_logits(model(words, others), target, reduction="sum") / len(words)

    def held_out(self) -> list[Batch]:
        _, validation, noise = pairs()
        return [self._among(*batch, noise, seeded(i)) for i, batch in enumerate(some(validation, 4096))]

    def _among(self, words: Tensor, others: Tensor, noise: Tensor, generator: Generator) -> Batch:
        drawn = torch.multinomial(noise, len(words) * self.negatives, replacement=True, generator=generator)
        return words, torch.cat([others[:, None], drawn.view(len(words), -1)], dim=1)

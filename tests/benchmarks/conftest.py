"""Small data in the place of what the benchmark of optimizers downloads."""

import pytest
import torch

from benchmarks.optimizers import generative, language, tables, vision
from l2o.tasks.data import Dataset, Part, encode
from l2o.types import seeded

LINES = [f"why is my card number {i} late and where is the card now" for i in range(200)]


def _images(num_classes, size=28):
    generator = seeded(0)
    means = torch.rand(num_classes, 1, size, size, generator=generator)
    y = torch.randint(num_classes, (600,), generator=generator)
    x = (255 * (0.7 * means[y] + 0.3 * torch.rand(600, 1, size, size, generator=generator))).byte()
    return Dataset("images", Part(x[:400], y[:400]), Part(x[400:], y[400:]), num_classes)


def _table():
    generator = seeded(0)
    x = torch.randint(4, (300, 9), generator=generator).float()
    y = (x[:, 0] + x[:, 1] > 3).long() + (x[:, 2] > 2).long()
    return Dataset("table", Part(x[:200], y[:200]), Part(x[200:], y[200:]), 3)


def _graph():
    generator = seeded(0)
    y = torch.arange(80) % 20
    x = torch.nn.functional.normalize(torch.randn(20, 384, generator=generator)[y], dim=1)
    return tables.joined(x + 0.01 * torch.randn(80, 384, generator=generator), y, neighbours=3)


@pytest.fixture
def small_data(monkeypatch):
    for module in (vision, generative):
        monkeypatch.setattr(module, "fashion_mnist", lambda size: _images(10, size))
        monkeypatch.setattr(module, "mnist", lambda size: _images(10, size))
        monkeypatch.setattr(module, "alphabets", lambda size: _images(30, size))
    text, graph, pairs = encode("text", "\n".join(LINES)), _graph(), language.neighbours(LINES)
    monkeypatch.setattr(language, "names", lambda: text)
    monkeypatch.setattr(language, "banking", lambda: text)
    monkeypatch.setattr(language, "pairs", lambda: pairs)
    monkeypatch.setattr(tables, "contraception", _table)
    monkeypatch.setattr(tables, "sentences", lambda: graph)

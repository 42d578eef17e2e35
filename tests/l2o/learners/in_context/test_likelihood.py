import pytest
import torch

from l2o.tasks.episodes import Examples
from l2o.tasks.text_episodes import CONTEXT, PAD, SCORED
from l2o.types import seeded

pytest.importorskip("transformers")

from l2o.learners.in_context.language_model import tiny_gpt
from l2o.learners.in_context.text import InContextLanguageModel, mean_likelihood


def test_likelihood_of_half_precision_is_reckoned_in_float32() -> None:
    logits = 30 + torch.randn(8, 5, 50, generator=seeded(0))
    tokens = torch.randint(50, (8, 5), generator=seeded(1))
    scored = torch.ones_like(tokens, dtype=torch.bool)
    found = mean_likelihood(logits.bfloat16(), tokens, scored)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, mean_likelihood(logits.bfloat16().float(), tokens, scored))


def test_likelihoods_come_in_the_order_of_the_rows_however_many_go_at_once() -> None:
    model = InContextLanguageModel(tiny_gpt(50, 8, 1, 1, 64), 0, 16).eval()
    lengths = [5, 0, 9, 3, 0, 9, 2, 0]
    rows = torch.zeros(len(lengths), 2, 9, dtype=torch.int64)
    for row, length in zip(rows, lengths, strict=True):
        row[0, :length] = torch.randint(1, 50, (length,), generator=seeded(length))
        row[1, :length], row[1, :1] = SCORED, CONTEXT if length else PAD
    with torch.no_grad():
        fast = model.start(Examples(rows[:0].unsqueeze(1), torch.zeros(0, dtype=torch.int64)))
        each = torch.cat([model.likelihood(fast, row.unsqueeze(0)) for row in rows])
        for at_once in (1, 2, 3, 64):
            model.rows_at_once = at_once
            torch.testing.assert_close(model.likelihood(fast, rows), each)
    assert float(each[1]) < -1e30 and float(each[0]) > -100


def test_likelihood_of_nothing_is_the_least_and_finite() -> None:
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    scored = torch.tensor([[False, False, True], [False, False, False]])
    found = mean_likelihood(torch.zeros(2, 3, 4), tokens, scored)
    assert float(found[0]) == pytest.approx(-1.386294) and found[1] < -1e30 and found[1].isfinite()

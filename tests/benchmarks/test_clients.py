import ast
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import benchmarks.clients.__main__ as main
from benchmarks.clients.__main__ import CLIENTS, REWARDED, Config, client, final, run
from benchmarks.clients.client import adamw, ours, perceptron, table_batches

PAGE = Path(main.__file__).parent / "README.md"
STEPS = 16
COMPILED = ("compiled",)
ALIKE = ("ddp", "fsdp", "higher_loop")
"""Clients that take the steps of a plain loop."""

third_parties = pytest.mark.filterwarnings("ignore")  # what other libraries warn about is theirs


def plain_losses(steps):
    torch.manual_seed(0)
    model, batches, losses = perceptron(), table_batches(0), []
    optimizer = ours(steps)(model.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        x, y = next(batches)
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step(loss=loss)
        losses.append(loss.item())
    return losses


@third_parties
@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=pytest.mark.compiled if x in COMPILED else ()) for x in CLIENTS]
)
def test_every_client_trains_with_the_optimizer_in_the_box(name):
    pytest.importorskip(CLIENTS[name])
    losses = client(name)(ours(STEPS), STEPS, 0)
    assert all(map(math.isfinite, losses))
    if name in REWARDED:
        assert losses and max(losses) < 0, "minus the return of an episode"
    else:
        assert final(losses) < 0.97 * losses[0]
    if name in ALIKE:
        torch.testing.assert_close(losses, plain_losses(STEPS), rtol=1e-3, atol=1e-4)


@third_parties
def test_a_row_has_both_optimizers_with_their_intervals():
    (row,) = run(Config(only=("plain",), steps=4, seeds=2))
    assert row["below"] == (row["ours"] < row["adamw"])
    assert row["ours_low"] <= row["ours"] <= row["ours_high"]
    assert row["adamw"] == pytest.approx(sum(client("plain")(adamw(4), 4, seed)[-1] for seed in (0, 1)) / 2)


def test_unknown_clients_are_named():
    with pytest.raises(ValueError, match=r"a client must be one of plain, .*; got 'keras'"):
        client("keras")


def test_the_page_has_every_client_and_its_snippets_are_python():
    text = PAGE.read_text()
    assert {f"{name}.py" for name in CLIENTS} == set(re.findall(r"\]\((\w+\.py)\)", text))
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for snippet in snippets:
        ast.parse(snippet)
    lines = [[line for line in snippet.splitlines() if line] for snippet in snippets]
    assert len(snippets) >= len(CLIENTS) and max(map(len, lines)) <= 3

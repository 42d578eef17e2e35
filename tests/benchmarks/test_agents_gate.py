from typing import Any

import pytest
import torch
from torch import Generator

from benchmarks import agents_gate
from benchmarks.agents_gate import counted, hostile, judged, lines, ordinary, table, upper
from l2o.agents.gate import Gate, Verdict
from l2o.types import seeded

GATE = Gate(0.05, 16, 256, max_slowdown=None)


def test_runs_and_proposals_that_pass_are_counted_apart() -> None:
    """Of three runs of four proposals the second lets two through, the last one of another reason."""
    seen: list[tuple[int, float]] = []

    def judge(trial: int, generator: Generator) -> Verdict:
        seen.append((trial, float(torch.rand((), generator=generator))))
        better = 4 < len(seen) <= 6
        return verdict(better, "better" if better else "no better", pairs=trial)

    row = counted(judge, 3, 4)
    assert [trial for trial, _ in seen] == [1, 2, 3, 4] * 3 and len({drawn for _, drawn in seen}) == 12
    assert (row["false_runs"], row["false_acceptances"], row["pairs"]) == (1, 2, 2.5)
    assert dict(row["reasons"]) == {"no better": 10, "better": 2} and row["upper"] == upper(1, 3)


def verdict(accepted: bool, reason: str, pairs: int) -> Verdict:
    """A judgement that says so much."""
    found = judged(GATE, lambda g, n: torch.zeros(n), 1, seeded(0))
    return found._replace(accepted=accepted, reason=reason, pairs=pairs)


def test_few_false_runs_are_likely_up_to_the_bound() -> None:
    """Without any, (1 - p)^n = .05; with k, the binomial distribution's sum up to k is .05."""
    assert upper(0, 100) == pytest.approx(1 - 0.05 ** (1 / 100), abs=1e-9)
    p = upper(2, 50)
    some = torch.distributions.Binomial(50, torch.tensor(p, dtype=torch.float64))
    assert float(some.log_prob(torch.arange(3.0)).exp().sum()) == pytest.approx(0.05, abs=1e-6)
    assert upper(50, 50) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", [kind for kind in hostile() if kind != agents_gate.SLOW])
def test_a_hostile_proposal_does_not_pass(kind: str) -> None:
    for trial in (1, 2):
        assert not GATE.judge(ordinary, hostile()[kind], trial, seeded(trial)).accepted


def test_what_is_much_better_passes() -> None:
    assert judged(GATE, lambda g, n: 0.3 + 0.1 * torch.randn(n, generator=g), 1, seeded(0)).accepted


def test_rows_are_told_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    run: dict[str, Any] = {"runs": 10, "proposals": 200, "false_runs": 1, "false_acceptances": 1, "pairs": 40.4}
    rows = [
        run | {"shape": "uniform", "reasons": {"crashed": 1, "no better": 1998, "better": 1}},
        run | {"hostile": "crashes", "reasons": {"crashed": 2000}, "false_runs": 0, "false_acceptances": 0},
        {"gain": 0.25, "deviation": 0.3, "trial": 20, "accepted": 0.68, "pairs": 399.6},
    ]
    expected = [
        ["no better: uniform", "1 of 2,000", "40", "no better, crashed"],
        ["hostile: crashes", "0 of 2,000", "40", "crashed"],
        ["better by 0.25 deviations, trial 20", "68%", "400", ""],
    ]
    assert lines(rows) == expected
    about = {"config": {"alpha": 0.05, "max_pairs": 768}, "machine": "m", "commit": "c"}
    monkeypatch.setattr(agents_gate, "read", lambda name: [row | about for row in rows])
    told = table()
    assert "Of all 10 runs of what is no better 1 had a false acceptance" in told
    assert f"below {upper(1, 10):.1%} of such runs" in told and all(" | ".join(line) in told for line in expected[:2])

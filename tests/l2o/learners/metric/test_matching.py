import pytest
import torch
from torch import Tensor, nn

from l2o.learners import MLP, MatchingNetwork
from l2o.learners.lstm_cell import LSTMCell
from l2o.learners.metric.matching import AttentionLSTM, BidirectionalLSTM
from l2o.tasks.episodes import Examples
from l2o.types import seeded

X, Y = torch.randn(6, 4, generator=seeded(0)), torch.tensor([0, 1, 2, 2, 1, 0])
SUPPORT, QUERY = Examples(X, Y), torch.randn(5, 4, generator=seeded(1))
ORDER = torch.tensor([3, 1, 5, 0, 2, 4])


@pytest.fixture(autouse=True)
def _seed() -> object:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("full_context", [False, True])
def test_only_full_context_reads_the_support_set_in_order(full_context: bool) -> None:
    learner = MatchingNetwork(MLP([4, 6, 5]), full_context=full_context)
    a = learner.predict(learner.start(SUPPORT), QUERY)
    b = learner.predict(learner.start(Examples(X[ORDER], Y[ORDER])), QUERY)
    assert torch.allclose(a, b, rtol=1e-4, atol=1e-5) != full_context


def test_a_fresh_context_of_the_reader_does_not_depend_on_the_order() -> None:
    """f reads a set; it is g that reads a sequence."""
    f, z = AttentionLSTM(4, num_reads=3), QUERY
    torch.testing.assert_close(f(z, X), f(z, X[ORDER]))


def test_scores_are_attention_over_labels() -> None:
    learner = MatchingNetwork(nn.Identity(), full_context=False)
    fast = learner.start(SUPPORT)
    attention = torch.nn.functional.cosine_similarity(QUERY[:, None], X[None], dim=-1).softmax(1)
    torch.testing.assert_close(learner.attention(fast, QUERY), attention)
    expected = torch.stack([attention[:, c == Y].sum(1) for c in range(3)], dim=1)
    torch.testing.assert_close(learner.predict(fast, QUERY).exp(), expected)


@pytest.mark.parametrize("full_context", [False, True])
def test_attention_and_probabilities_sum_to_one(full_context: bool) -> None:
    learner = MatchingNetwork(MLP([4, 6, 5]), full_context=full_context)
    fast = learner.start(SUPPORT)
    torch.testing.assert_close(learner.attention(fast, QUERY).sum(1), torch.ones(5))
    torch.testing.assert_close(learner.predict(fast, QUERY).exp().sum(1), torch.ones(5))


def test_scores_stay_finite_where_embeddings_are_zero_and_where_steps_lead_below_zero() -> None:
    learner = MatchingNetwork(nn.Identity(), full_context=False)
    zeros = torch.zeros(6, 4, requires_grad=True)
    fast = learner.start(Examples(zeros, Y))
    score = learner.predict(fast, zeros)
    (grad,) = torch.autograd.grad(score[0, 0], zeros)
    assert score.isfinite().all() and grad.isfinite().all()
    fast["labels"] = fast["labels"] - 5.0
    assert learner.predict(fast, QUERY).isfinite().all()


def test_g_is_torch_s_bidirectional_lstm_with_a_skip() -> None:
    g = BidirectionalLSTM(4)
    oracle = nn.LSTM(4, 4, bidirectional=True)
    for suffix, cell in (("", g.forth), ("_reverse", g.back)):
        load(oracle, cell, suffix=f"_l0{suffix}")
    both = oracle(X)[0]
    torch.testing.assert_close(g(X), both[:, :4] + both[:, 4:] + X)


@pytest.mark.parametrize("num_reads", [1, 3])
def test_f_is_the_paper_s_equations_3_to_6(num_reads: int) -> None:
    f, z, references = AttentionLSTM(4, num_reads), QUERY, X
    oracle = nn.LSTMCell(4, 8)  # its first four states are h, what the other four, r, would be is put in
    gates = torch.cat([torch.arange(4) + 8 * i for i in range(4)])
    blank(oracle)
    load(oracle, f.cell, rows=gates)
    h, c = z, torch.zeros(5, 8)
    for _ in range(num_reads):
        r = torch.stack([((references @ row).softmax(0).unsqueeze(1) * references).sum(0) for row in h])
        state, c = oracle(z, (torch.cat([h, r], dim=1), c))
        h = state[:, :4] + z
    torch.testing.assert_close(f(z, references), h)


def load(oracle: nn.Module, cell: LSTMCell, suffix: str = "", rows: Tensor | None = None) -> None:
    """Put a cell's weights into torch's; our forget gate has 1 added."""
    forget = torch.cat([torch.zeros(4), torch.ones(4), torch.zeros(8)])
    values = {
        "weight_ih": cell.inputs.weight,
        "weight_hh": cell.recurrent.weight,
        "bias_ih": cell.inputs.bias + forget,
        "bias_hh": torch.zeros(16),
    }
    with torch.no_grad():
        for name, value in values.items():
            parameter = getattr(oracle, name + suffix)
            parameter[slice(None) if rows is None else rows] = value


def blank(module: nn.Module) -> None:
    for p in module.parameters():
        nn.init.zeros_(p)


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="num_reads must be at least 1"):
        MatchingNetwork(MLP([4, 5]), num_reads=0)

import pytest
import torch
from torch import Tensor

from l2o.learners.memory.addressing import content, focused, least_used, sharpen, shift, write
from l2o.learners.memory.mann import write_least_used
from l2o.types import seeded

MEMORY = torch.randn(2, 6, 4, generator=seeded(0))
KEYS = torch.randn(2, 3, 4, generator=seeded(1))


def one_hot(*rows: int, of: int = 6) -> Tensor:
    return torch.eye(of)[list(rows)]


def test_with_endless_strength_content_is_the_nearest_row() -> None:
    nearest = torch.nn.functional.cosine_similarity(KEYS.unsqueeze(2), MEMORY.unsqueeze(1), dim=-1).argmax(-1)
    found = content(KEYS, torch.full((2, 3, 1), 1e6), MEMORY)
    torch.testing.assert_close(found, torch.eye(6)[nearest])


def test_content_is_a_softmax_of_cosines() -> None:
    strengths = torch.rand(2, 3, 1, generator=seeded(2)) * 5
    cosines = torch.nn.functional.cosine_similarity(KEYS.unsqueeze(2), MEMORY.unsqueeze(1), dim=-1)
    torch.testing.assert_close(
        content(KEYS, strengths, MEMORY), torch.softmax(strengths * cosines, -1), atol=1e-5, rtol=1e-4
    )


def test_without_strength_and_in_a_blank_memory_all_rows_are_alike() -> None:
    torch.testing.assert_close(content(KEYS, torch.zeros(2, 3, 1), MEMORY), torch.full((2, 3, 6), 1 / 6))
    blank = content(KEYS, torch.full((2, 3, 1), 50.0), torch.full((2, 6, 4), 1e-6))
    torch.testing.assert_close(blank, torch.full((2, 3, 6), 1 / 6))


@pytest.mark.parametrize("reach", [0, 1, 2])
def test_a_shift_turns_the_rows(reach: int) -> None:
    weights = torch.rand(3, 2, 6, generator=seeded(0))
    for k in range(2 * reach + 1):
        turned = shift(weights, one_hot(k, of=2 * reach + 1).expand(3, 2, -1))
        assert torch.equal(turned, weights.roll(k - reach, dims=-1))


def test_shift_plus_one_leads_from_the_last_row_to_the_first() -> None:
    assert torch.equal(shift(one_hot(5, 2), one_hot(2, 2, of=3)), one_hot(0, 3))


def test_a_mixture_of_shifts_is_the_mixture_of_their_results() -> None:
    got = shift(one_hot(3), torch.tensor([[0.2, 0.5, 0.3]]))
    torch.testing.assert_close(got, torch.tensor([[0, 0, 0.2, 0.5, 0.3, 0]]))


def test_sharpening_is_the_normalised_power() -> None:
    weights, powers = torch.softmax(torch.randn(2, 3, 6, generator=seeded(0)), -1), torch.tensor([1.0, 2.5, 7.0])
    powered = weights ** powers.view(1, 3, 1)
    torch.testing.assert_close(
        sharpen(weights, powers.view(1, 3, 1).expand(2, 3, 1)), powered / powered.sum(-1, keepdim=True)
    )


def test_sharpening_survives_where_all_powers_are_zero_in_float32() -> None:
    """1/128 to the 30th is 0, so that the formula as it is written gives 0 / 0."""
    weights = torch.full((1, 1, 128), 1 / 128)
    weights[..., 7] *= 1.5
    weights.requires_grad_()
    powers = torch.full((1, 1, 1), 30.0, requires_grad=True)
    assert ((weights**powers).sum() == 0).item()
    sharp = sharpen(weights, powers)
    assert sharp.sum().item() == pytest.approx(1) and sharp[..., 7] > 0.999
    grads = torch.autograd.grad(sharp[..., 7].sum(), [weights, powers])
    assert all(g.isfinite().all() for g in grads)


def test_a_one_hot_stays_one_and_has_finite_derivatives() -> None:
    weights = one_hot(2).clone().requires_grad_()
    sharp = sharpen(weights, torch.full((1, 1), 1.0))
    torch.testing.assert_close(sharp, one_hot(2))
    (grad,) = torch.autograd.grad(sharp.square().sum(), weights)
    assert grad.isfinite().all()


def test_heads_erase_before_any_adds() -> None:
    weights, erase = (
        torch.softmax(torch.randn(2, 2, 6, generator=seeded(3)), -1),
        torch.rand(2, 2, 4, generator=seeded(4)),
    )
    add = torch.randn(2, 2, 4, generator=seeded(5))
    expected = MEMORY.clone()
    for b in range(2):
        for h in range(2):
            expected[b] *= 1 - torch.outer(weights[b, h], erase[b, h])
        for h in range(2):
            expected[b] += torch.outer(weights[b, h], add[b, h])
    torch.testing.assert_close(write(MEMORY, weights, erase, add), expected)


def test_full_erasure_of_a_row_leaves_what_is_added() -> None:
    add = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    after = write(MEMORY[0], one_hot(2), torch.ones(1, 4), add)
    torch.testing.assert_close(after[2], add[0])
    assert torch.equal(after[[0, 1, 3, 4, 5]], MEMORY[0, [0, 1, 3, 4, 5]])


def test_each_head_has_a_least_used_row_of_its_own() -> None:
    usage = torch.tensor([[0.5, 0.1, 0.9, 0.0, 0.3, 0.2], [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]])
    assert torch.equal(least_used(usage, 2), torch.stack([one_hot(3, 1), one_hot(0, 1)]))


def test_with_its_gate_shut_a_head_writes_the_emptied_row() -> None:
    usage, read = torch.tensor([0.5, 0.1, 0.9, 0.0, 0.3, 0.2]), one_hot(4, 5)
    added = torch.randn(2, 4, generator=seeded(7))
    written, memory = write_least_used(MEMORY[0], usage, read, torch.zeros(2, 1), added)
    assert torch.equal(written, one_hot(3, 1))
    assert torch.equal(memory[[3, 1]], added)
    assert torch.equal(memory[[0, 2, 4, 5]], MEMORY[0, [0, 2, 4, 5]])


def test_with_its_gate_open_a_head_adds_to_what_was_read() -> None:
    usage, read = torch.tensor([0.5, 0.1, 0.9, 0.0, 0.3, 0.2]), one_hot(4)
    added = torch.randn(1, 4, generator=seeded(7))
    written, memory = write_least_used(MEMORY[0], usage, read, torch.ones(1, 1), added)
    assert torch.equal(written, read)
    torch.testing.assert_close(memory[4], MEMORY[0, 4] + added[0])
    assert not memory[3].any()  # emptied all the same


def test_heads_that_are_focused_look_at_row_0() -> None:
    assert torch.equal(focused(MEMORY, 2, 3), one_hot(0, 0, of=3))


def test_a_shift_of_an_even_number_of_places_has_no_middle() -> None:
    with pytest.raises(ValueError, match="shifts must be an odd number"):
        shift(one_hot(0), torch.tensor([[0.5, 0.5]]))

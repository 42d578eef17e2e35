import torch
from torch import Tensor

from l2o.learners.memory.linkage import allocation, follow, link_after, precedence_after, usage_after
from l2o.types import seeded

ROWS = 5
EYE = torch.eye(ROWS)


def written_in_turn(*rows: int) -> Tensor:
    link, precedence = torch.zeros(ROWS, ROWS), torch.zeros(ROWS)
    for row in rows:
        link = link_after(link, precedence, EYE[row])
        precedence = precedence_after(precedence, EYE[row])
    return link


def test_allocation_takes_the_only_free_row() -> None:
    assert torch.equal(allocation(torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0])), EYE[3])


def test_allocation_takes_the_first_of_equal_rows_and_nothing_when_all_are_used() -> None:
    torch.testing.assert_close(allocation(torch.zeros(ROWS)), EYE[0], atol=1e-5, rtol=0)
    assert torch.equal(allocation(torch.ones(ROWS)), torch.zeros(ROWS))


def test_allocation_is_equation_1_of_the_methods() -> None:
    usage = torch.rand(3, ROWS, generator=seeded(0))
    expected = torch.zeros_like(usage)
    for b in range(3):
        product = 1.0
        for row in usage[b].argsort().tolist():
            expected[b, row] = (1 - usage[b, row]) * product
            product *= float(usage[b, row])
    torch.testing.assert_close(allocation(usage), expected)
    assert (allocation(usage).sum(-1) <= 1 + 1e-6).all()


def test_allocation_has_the_derivatives_of_its_formula_where_rows_are_free() -> None:
    """a[i] = (1 - u[i]) times the product of the usage of all rows that are used less."""
    usage = torch.tensor([0.0, 0.3, 0.5, 1.0, 1.0], requires_grad=True)
    (grad,) = torch.autograd.grad(allocation(usage)[2], usage)
    torch.testing.assert_close(grad, torch.tensor([0.3 * 0.5, 0.0, 0.0, 0.0, 0.0]), atol=1e-5, rtol=0)
    two = torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0], requires_grad=True)
    (grad,) = torch.autograd.grad(allocation(two).square().sum(), two)
    assert grad.isfinite().all()


def test_after_writing_rows_0_1_2_one_is_after_zero_and_before_two() -> None:
    link = written_in_turn(0, 1, 2)
    backward, forward = follow(link, EYE[[0, 1]])
    assert torch.equal(forward, EYE[[1, 2]])
    assert torch.equal(backward, torch.stack([torch.zeros(ROWS), EYE[0]]))


def test_a_row_that_is_written_again_loses_its_old_place() -> None:
    link = written_in_turn(0, 1, 2, 0)
    _, forward = follow(link, EYE[[0, 1, 2]])
    assert torch.equal(forward, torch.stack([torch.zeros(ROWS), EYE[2], EYE[0]]))


def test_no_row_comes_after_itself_and_rows_of_the_link_sum_to_at_most_one() -> None:
    link, precedence = torch.zeros(4, ROWS, ROWS), torch.zeros(4, ROWS)
    generator = seeded(0)
    for _ in range(30):
        w = torch.softmax(3 * torch.randn(4, ROWS, generator=generator), -1) * torch.rand(4, 1, generator=generator)
        link, precedence = link_after(link, precedence, w), precedence_after(precedence, w)
    assert (link.diagonal(dim1=1, dim2=2) == 0).all() and (link >= -1e-6).all()
    assert (link.sum(1) <= 1 + 1e-5).all() and (link.sum(2) <= 1 + 1e-5).all()
    assert (precedence.sum(-1) <= 1 + 1e-5).all()


def test_what_is_written_is_used_and_what_is_read_is_freed_only_by_its_gate() -> None:
    usage = torch.tensor([0.0, 0.5, 0.0, 0.0, 1.0])
    read = EYE[[1, 4]]
    kept = usage_after(usage, EYE[0], read, torch.zeros(2, 1))
    assert torch.equal(kept, torch.tensor([1.0, 0.5, 0.0, 0.0, 1.0]))
    freed = usage_after(usage, EYE[0], read, torch.tensor([[0.0], [1.0]]))
    assert torch.equal(freed, torch.tensor([1.0, 0.5, 0.0, 0.0, 0.0]))

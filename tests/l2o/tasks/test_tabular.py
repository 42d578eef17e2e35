import pytest
import torch

from l2o.tasks.data import bundled_tables, labelled
from l2o.tasks.tabular import Tables, standardised
from l2o.types import seeded


def test_episodes_of_all_tables_have_one_shape() -> None:
    family = Tables(bundled_tables(), way=2, shot=5, query=3, features=8)
    many = family.sample_many(seeded(0), 30)
    assert many.support.x.shape == (30, 10, 8) and many.query.x.shape == (30, 6, 8)
    filled = (many.query.x == 0).all(dim=1).sum(1)
    assert {4, 0} <= set(filled.tolist())  # iris has 4 columns, the others more than 8


def test_nothing_of_the_queries_is_used_and_missing_values_are_the_mean() -> None:
    nan = float("nan")
    support = torch.tensor([[1.0, nan, 5.0], [3.0, 2.0, 5.0], [nan, 4.0, 5.0]])
    query = torch.tensor([[nan, 3.0, 9.0], [100.0, 2.0, 5.0]])
    a, b = standardised(support, query)
    torch.testing.assert_close(a, torch.tensor([[-1.0, 0.0, 0.0], [1.0, -1.0, 0.0], [0.0, 1.0, 0.0]]))
    torch.testing.assert_close(b, torch.tensor([[0.0, 0.0, 0.0], [10.0, -1.0, 0.0]]))
    torch.testing.assert_close(standardised(support, query[:1])[0], a)


def test_tables_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="must not exceed the examples of any class"):
        Tables(bundled_tables(), way=2, shot=40, query=40)
    with pytest.raises(ValueError, match="must be vectors"):
        Tables((labelled("pictures", torch.zeros(40, 2, 2), [0, 1] * 20),), way=2, shot=1, query=1)

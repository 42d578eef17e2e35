import math
import os
import pickle
from collections import Counter
from pathlib import Path

import pytest
import torch

from l2o.tasks.data import bundled_tables, cc18_tables, labelled
from l2o.tasks.data.labelled import LabelledDataset
from l2o.tasks.tabular import Tables, standardised
from l2o.types import seeded, tree_leaves

DATA = Path(os.environ.get("L2O_DATA") or "nowhere")
NAN = float("nan")


def table(columns: int, rows: int = 40, seed: int = 0) -> LabelledDataset:
    x = torch.randn(rows, columns, generator=seeded(seed))
    return labelled(f"table of {columns}", x, [i % 4 for i in range(rows)])


def test_episodes_of_all_tables_have_one_shape() -> None:
    family = Tables(bundled_tables(), way=2, shot=5, query=3, features=8)
    many = family.sample_many(seeded(0), 60)
    assert many.support.x.shape == (60, 10, 8) and many.query.x.shape == (60, 6, 8)
    assert torch.equal(many.support.y, torch.arange(2).repeat(5).expand(60, -1))
    filled = Counter((many.query.x == 0).all(dim=1).sum(1).tolist())
    assert set(filled) == {4, 0}  # iris has 4 columns, the others more than 8
    assert 8 < filled[4] < 32  # a third of them, within three deviations
    assert all(torch.equal(*pair) for pair in zip(*(tree_leaves(family.sample(seeded(7))) for _ in "ab"), strict=True))
    assert len(pickle.dumps(family)) < 1000


def test_classes_are_any_of_a_table_and_rows_are_of_their_class() -> None:
    x = torch.arange(40.0).remainder(4).unsqueeze(1)  # the label is the input
    episodes = Tables((labelled("four", x, x.flatten()),), way=2, shot=3, query=2, features=1)
    for seed in range(20):
        support, query = episodes.sample(seeded(seed))
        expected = {int(y): float(v) for v, y in zip(support.x, support.y, strict=True)}
        assert sorted(expected.values()) == pytest.approx([-1.0, 1.0])
        assert [float(v) for v in query.x] == pytest.approx([expected[int(y)] for y in query.y])


def test_nothing_of_the_queries_is_used_and_missing_values_are_the_mean() -> None:
    support = torch.tensor([[1.0, NAN, 5.0], [3.0, 2.0, 5.0], [NAN, 4.0, 5.0]])
    query = torch.tensor([[NAN, 3.0, 9.0], [100.0, 2.0, 5.0]])
    a, b = standardised(support, query)
    torch.testing.assert_close(a, torch.tensor([[-1.0, 0.0, 0.0], [1.0, -1.0, 0.0], [0.0, 1.0, 0.0]]))
    torch.testing.assert_close(b, torch.tensor([[0.0, 0.0, 0.0], [10.0, -1.0, 0.0]]))
    torch.testing.assert_close(standardised(support, query[:1])[0], a)


def test_supports_have_mean_0_and_deviation_1_whatever_the_units() -> None:
    units = torch.tensor([1e-12, 1.0, 1e25, 3.0])  # squares of the third overflow
    offset = torch.tensor([0.0, 1e4, 0.0, -2.0])
    z = torch.randn(30, 4, generator=seeded(0))
    support, query = standardised((z * units + offset)[:20], (z * units + offset)[20:])
    torch.testing.assert_close(support.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(support.std(0, correction=0), torch.ones(4), atol=1e-5, rtol=0)
    mean, deviation = z[:20].mean(0), z[:20].std(0, correction=0)
    torch.testing.assert_close(query, (z[20:] - mean) / deviation, atol=2e-3, rtol=0)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-20, 12345.678, 0.0])
def test_columns_that_do_not_vary_in_the_support_are_zero(value: float) -> None:
    support = torch.full((7, 2), value)
    support[:, 1] = NAN
    query = torch.tensor([[value * 1.001 + 1e-3, 5.0], [value, NAN]])
    for x in standardised(support, query):
        assert torch.equal(x, torch.zeros_like(x))
    nearly = torch.full((7, 1), value)  # the least change that a float can show is one, though
    nearly[3] = torch.nextafter(nearly[3], torch.tensor(math.inf))
    assert float(standardised(nearly, nearly)[0].max()) == pytest.approx(6**0.5, rel=1e-3)


def test_few_columns_are_filled_up_and_weigh_as_much_as_many() -> None:
    narrow = Tables((table(3),), way=2, shot=8, query=2, features=12).sample(seeded(0))
    assert (narrow.support.x[:, 3:] == 0).all() and (narrow.query.x[:, 3:] == 0).all()
    wide = Tables((table(30),), way=2, shot=8, query=2, features=12).sample(seeded(0))
    for episode in (narrow, wide):
        assert float(episode.support.x.square().sum(1).mean()) == pytest.approx(12, rel=1e-5)


def test_each_column_comes_to_each_place_equally_often() -> None:
    x = torch.randn(40, 4, generator=seeded(0))
    x[:, 3] = x[:, 3].sign()  # of two values, so that it is known by being so in every episode
    episodes = Tables((labelled("told", x, [0, 1] * 20),), way=2, shot=8, query=2, features=3).sample_many(
        seeded(1), 400
    )
    found = torch.tensor([[len(set(column)) == 2 for column in e.T.tolist()] for e in episodes.support.x])
    seen = torch.cat([found.sum(0), (~found.any(1)).sum().view(1)]).double()
    assert float(((seen - 100) ** 2 / 100).sum()) < 16.3  # 3 degrees of freedom, p = .001


def test_tables_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="must not exceed the examples of any class"):
        Tables(bundled_tables(), way=2, shot=40, query=40)
    with pytest.raises(ValueError, match="must not exceed the 2 classes of breast_cancer"):
        Tables(bundled_tables(), way=3)
    with pytest.raises(ValueError, match="must be vectors"):
        Tables((labelled("pictures", torch.zeros(40, 2, 2), [0, 1] * 20),), way=2, shot=1, query=1)
    with pytest.raises(ValueError, match="got 0 tables, features=16"):
        Tables(())
    with pytest.raises(ValueError, match="got 3 tables, features=0"):
        Tables(bundled_tables(), features=0)


def ridge_accuracy(family: Tables, num: int = 100) -> float:
    """Of a linear classifier that is fitted to each support."""
    (x, y), (queries, labels) = family.sample_many(seeded(0), num)
    kernel = x @ x.mT + family.features * torch.eye(x.shape[1])
    weights = torch.linalg.solve(kernel, (2.0 * y - 1).unsqueeze(-1))
    return float((((queries @ x.mT @ weights).squeeze(-1) > 0) == (labels == 1)).double().mean())


def test_a_table_can_be_learned_from_a_few_rows() -> None:
    assert ridge_accuracy(Tables(bundled_tables(), way=2, shot=10, query=10)) > 0.9


@pytest.mark.skipif(not (DATA / "openml_cc18_15.npz").exists(), reason="needs L2O_DATA with openml_cc18_15.npz")
@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_real_tables_with_missing_values_can_be_learned_from_a_few_rows(part: str) -> None:
    family = Tables(cc18_tables(part), way=2, shot=10, query=10)  # type: ignore[arg-type]
    assert all(x.isfinite().all() for x in tree_leaves(family.sample_many(seeded(1), 100)))
    assert ridge_accuracy(family) > 0.6

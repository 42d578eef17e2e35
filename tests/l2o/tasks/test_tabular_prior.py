import pytest
import torch

from l2o.tasks.tabular_prior import SyntheticTables, filled
from l2o.types import seeded, tree_leaves

FAMILY = SyntheticTables(features=8, classes=4, support=(60, 60), query=40)


def test_episodes_stack_and_are_standardised_by_their_support() -> None:
    family = SyntheticTables(features=8, classes=4, support=(5, 30), query=7)
    sizes = {family.sample_many(seeded(i), 2).support.x.shape[1] for i in range(60)}
    assert sizes <= set(range(5, 31)) and len(sizes) > 15
    support, query = FAMILY.sample_many(seeded(0), 50)
    assert support.x.shape == (50, 60, 8) and query.y.shape == (50, 40)
    assert all(x.isfinite().all() for x in (support.x, query.x))
    used = (support.x != 0).any(1)
    columns = used.sum(1, keepdim=True)
    scaled = support.x * (columns / 8).sqrt().unsqueeze(1)
    assert float(scaled.mean(1).abs().max()) < 0.3  # what is cut at ten deviations moves it a little
    squares = support.x.square().sum(-1).mean(1)
    assert float((squares - 8).abs().median()) < 0.1
    assert all(torch.equal(*pair) for pair in zip(*(tree_leaves(FAMILY.sample(seeded(7))) for _ in "ab"), strict=True))


def test_tables_have_from_two_to_all_columns_and_classes() -> None:
    support, _ = FAMILY.sample_many(seeded(1), 600)
    columns = (support.x != 0).any(1).sum(1)
    assert set(columns.tolist()) <= set(range(1, 9)) and int((columns >= 7).sum()) > 20 < int((columns <= 3).sum())
    assert (support.x.flip(-1).cumsum(-1)[:, :, 0] == support.x[:, :, -1]).all()
    kinds = torch.tensor([len(set(y.tolist())) for y in support.y])
    assert set(kinds.tolist()) <= {1, 2, 3, 4} and int((kinds == 2).sum()) > 200 and int((kinds == 4).sum()) > 50
    assert int((kinds == 1).sum()) < 30
    assert int(support.y.min()) == 0 and all(len(set(y.tolist())) == int(y.max()) + 1 for y in support.y[kinds == 4])


def test_names_of_classes_mean_nothing() -> None:
    """Each name is as often the most frequent one."""
    support, _ = SyntheticTables(features=4, classes=2, support=(50, 50), query=1).sample_many(seeded(2), 1000)
    more = (support.y.double().mean(1) > 0.5).double().mean()
    assert abs(float(more) - 0.5) < 0.06


def test_queries_can_be_told_from_the_support_and_not_from_a_shuffled_one() -> None:
    support, query = FAMILY.sample_many(seeded(3), 200)
    generator = seeded(4)
    shuffled = torch.stack([y[torch.randperm(60, generator=generator)] for y in support.y])
    right = {
        name: float((nearest(support.x, y, query.x) == query.y).double().mean())
        for name, y in (("given", support.y), ("shuffled", shuffled))
    }
    assert right["given"] > right["shuffled"] + 0.12


def nearest(x: torch.Tensor, y: torch.Tensor, unseen: torch.Tensor) -> torch.Tensor:
    near = torch.cdist(unseen, x).topk(5, dim=-1, largest=False).indices
    return y.unsqueeze(1).expand(-1, unseen.shape[1], -1).gather(2, near).mode(-1).values


def test_other_tables_are_filled_up_alike() -> None:
    x = torch.ones(3, 2)
    assert torch.equal(filled(x, 8), torch.tensor([2.0, 2.0] + [0.0] * 6).expand(3, 8))
    with pytest.raises(ValueError, match="at most 1 columns"):
        filled(x, 1)


def test_priors_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="2 features and 2 classes"):
        SyntheticTables(features=1)
    with pytest.raises(ValueError, match="from fewest to most rows"):
        SyntheticTables(support=(9, 3))

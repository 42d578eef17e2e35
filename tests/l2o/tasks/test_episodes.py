import pickle

import pytest
import torch

from l2o.tasks.data import LabelledDataset
from l2o.tasks.episodes import Episode, EpisodeFamily, FewShot
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.tasks.sinusoid import Sinusoid
from l2o.types import seeded, tree_leaves, tree_map, tree_stack

RAGGED = [9, 4, 7, 5, 4, 6]


def numbered(counts: list[int]) -> LabelledDataset:
    """Inputs tell their class and their row; the classes lie mixed."""
    y = torch.tensor([c for c, n in enumerate(counts) for _ in range(n)])
    y = y[torch.randperm(len(y), generator=seeded(0))]
    return LabelledDataset("numbered", torch.stack([y, torch.arange(len(y))], dim=1).float(), y)


FAMILIES = [
    FewShot(numbered([8] * 20), way=5, shot=1, query=2),
    FewShot(numbered(RAGGED), way=6, shot=3, query=1),
    GaussianClasses(dim=3, way=4, shot=2, query=3),
    Sinusoid(shot=4, query=6),
]


def test_rows_are_shot_major_and_labels_are_right() -> None:
    data = numbered(RAGGED)
    many = FewShot(data, way=3, shot=2, query=2).sample_many(seeded(0), 50)
    assert many.support.x.shape == (50, 6, 2) and many.query.y.shape == (50, 6)
    for part in many:
        assert torch.equal(part.y, torch.arange(3).repeat(2).expand(50, -1))
        rows = part.x[..., 1].long()
        assert torch.equal(data.x[rows], part.x)  # a row's input is its own
    classes = torch.cat([part.x[..., 0].unflatten(1, (2, 3)) for part in many], dim=1)
    assert (classes == classes[:, :1]).all()  # one class a label, in the support and in the query
    assert all(len(set(row)) == 3 for row in classes[:, 0].tolist())


def test_no_example_is_twice_in_an_episode() -> None:
    many = FewShot(numbered([4] * 5), way=4, shot=1, query=3).sample_many(seeded(1), 40)
    rows = torch.cat([many.support.x[..., 1], many.query.x[..., 1]], dim=1)
    assert all(len(set(row)) == 16 for row in rows.tolist())


@pytest.mark.parametrize("part", [0, 1])
def test_all_classes_and_all_examples_come_equally_often(part: int) -> None:
    many = FewShot(numbered([3, 3, 6, 4]), way=2, shot=1, query=1).sample_many(seeded(2), 6000)
    x = many[part].x.flatten(0, 1).long()
    seen = torch.bincount(x[:, 1], minlength=16).double()
    data = numbered([3, 3, 6, 4])
    expected = 3000 / data.counts[data.y].double()  # each class in half of the 6000 episodes
    # rows within an episode are of different classes, which makes the statistic smaller than chi-square, never larger
    assert float(((seen - expected) ** 2 / expected).sum()) < 37.7  # 15 degrees of freedom, p = .001


def test_each_class_has_each_label_equally_often() -> None:
    many = FewShot(numbered([2] * 6), way=3, shot=1, query=1).sample_many(seeded(3), 6000)
    for label in range(3):
        seen = torch.bincount(many.support.x[:, label, 0].long(), minlength=6).double()
        assert float(((seen - 1000) ** 2 / 1000).sum()) < 20.5  # 5 degrees of freedom, p = .001


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_a_generator_decides_what_is_drawn(family: EpisodeFamily) -> None:
    for draw in (family.sample, lambda generator: family.sample_many(generator, 3)):
        first, again, other = (tree_leaves(draw(seeded(seed))) for seed in (3, 3, 4))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not torch.equal(first[0], other[0])
    generator = seeded(3)
    assert not torch.equal(family.sample(generator).support.x, family.sample(generator).support.x)
    travelled = pickle.loads(pickle.dumps(family))
    assert torch.equal(travelled.sample(seeded(3)).query.x, family.sample(seeded(3)).query.x)


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_many_episodes_are_like_as_many_single_ones(family: EpisodeFamily) -> None:
    generator, num = seeded(5), 500
    singles = tree_stack([family.sample(generator) for _ in range(num)])
    many = family.sample_many(generator, num)
    assert isinstance(singles, Episode) and isinstance(many, Episode)
    for one, all_ in zip(tree_leaves(singles), tree_leaves(many), strict=True):
        assert one.shape == all_.shape and one.dtype == all_.dtype
        a, b = (x.flatten(1).double() for x in (one, all_))
        for moment in (1, 2):
            p, q = a**moment, b**moment
            error = ((p.var(0) + q.var(0)) / num).sqrt()
            # up to 60 numbers are compared, so five standard errors; labels do not vary at all
            assert ((p.mean(0) - q.mean(0)).abs() <= 5 * error).all()


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_episodes_of_one_draw_are_independent_of_each_other(family: EpisodeFamily) -> None:
    x = family.sample_many(seeded(6), 2000).support.x.flatten(1)[:, 0].double()
    neighbours = torch.corrcoef(torch.stack([x[:-1], x[1:]]))[0, 1]
    assert abs(float(neighbours)) < 3.3 / 2000**0.5


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"way": 7}, "must not exceed the 6 classes"),
        ({"shot": 2}, r"class of 4, got 2 \+ 3"),
        ({"way": 0}, "way must be at least 1"),
        ({"shot": 0}, "shot must be at least 1"),
        ({"query": 0}, "query must be at least 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(settings: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        FewShot(numbered(RAGGED), **{"way": 3, "shot": 1, "query": 3, **settings})


def test_images_come_as_floats_of_their_shape() -> None:
    images = torch.arange(48, dtype=torch.uint8).view(12, 1, 2, 2)
    episode = FewShot(LabelledDataset("images", images, torch.arange(4).repeat(3)), 2, 1, 2).sample(seeded(0))
    assert episode.query.x.shape == (4, 1, 2, 2) and episode.query.x.dtype == torch.float32
    assert tree_map(lambda t: t.max(), episode).query.x <= 47 / 255

import pickle

import pytest
import torch

from l2o.tasks.data import LabelledDataset
from l2o.tasks.episodes import Episode, FewShot
from l2o.tasks.sinusoid import Sinusoid
from l2o.types import seeded


def numbered(counts: list[int]) -> LabelledDataset:
    """Inputs tell their class and their row."""
    y = torch.tensor([c for c, n in enumerate(counts) for _ in range(n)])
    return LabelledDataset("numbered", torch.stack([y, torch.arange(len(y))], dim=1).float(), y)


def test_rows_are_shot_major_and_labels_are_right() -> None:
    family = FewShot(numbered([9, 4, 7, 5, 4, 6]), way=3, shot=2, query=2)
    many = family.sample_many(seeded(0), 50)
    assert many.support.x.shape == (50, 6, 2) and many.query.y.shape == (50, 6)
    for part in many:
        assert torch.equal(part.y, torch.arange(3).repeat(2).expand(50, -1))
        classes = part.x[..., 0].unflatten(1, (2, 3))
        assert torch.equal(classes[:, 0], classes[:, 1])  # one class a label
        assert all(len(set(row.tolist())) == 3 for row in classes[:, 0])
    assert torch.equal(
        many.support.x[..., 0].unflatten(1, (2, 3))[:, 0], many.query.x[..., 0].unflatten(1, (2, 3))[:, 0]
    )


def test_no_example_is_twice_in_an_episode() -> None:
    many = FewShot(numbered([4] * 5), way=4, shot=1, query=3).sample_many(seeded(1), 40)
    rows = torch.cat([many.support.x[..., 1], many.query.x[..., 1]], dim=1)
    assert all(len(set(row.tolist())) == 16 for row in rows)


def test_all_examples_come_equally_often() -> None:
    many = FewShot(numbered([3, 3, 6]), way=3, shot=1, query=1).sample_many(seeded(2), 3000)
    seen = torch.bincount(many.support.x[..., 1].long().flatten(), minlength=12).double()
    expected = torch.tensor([1000.0] * 6 + [500.0] * 6, dtype=torch.float64)
    assert float(((seen - expected) ** 2 / expected).sum()) < 28  # chi-square of 9 degrees, p = .001


def test_one_generator_gives_one_sequence() -> None:
    family = FewShot(numbered([8] * 20), way=5, shot=1, query=2)
    first, again, other = (family.sample_many(seeded(s), 3) for s in (3, 3, 4))
    assert torch.equal(first.query.x, again.query.x) and not torch.equal(first.query.x, other.query.x)
    assert isinstance(family.sample(seeded(3)), Episode)
    assert torch.equal(pickle.loads(pickle.dumps(family)).sample(seeded(3)).query.x, family.sample(seeded(3)).query.x)


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"way": 7}, "must not exceed the 6 classes"), ({"shot": 4}, "class of 4"), ({"query": 0}, "at least 1")],
)
def test_what_cannot_be_drawn_is_refused(settings: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        FewShot(numbered([9, 4, 7, 5, 4, 6]), **{"way": 3, "shot": 1, "query": 3, **settings})


def test_sinusoids_have_the_amplitudes_and_phases_of_the_paper() -> None:
    many = Sinusoid(shot=5, query=200).sample_many(seeded(0), 500)
    assert many.support.x.shape == many.support.y.shape == (500, 5, 1)
    assert float(many.query.x.min()) >= -5 and float(many.query.x.max()) <= 5
    peaks = many.query.y.abs().amax(1)
    assert 0.05 < float(peaks.min()) < 0.3 and 4.7 < float(peaks.max()) <= 5.0
    # y = a sin(x) cos(b) - a cos(x) sin(b): both parts are found by least squares
    x, y = many.query
    basis = torch.cat([x.sin(), x.cos()], dim=-1)
    solution = torch.linalg.lstsq(basis, y).solution.squeeze(-1)
    phase = torch.atan2(-solution[:, 1], solution[:, 0])
    torch.testing.assert_close((basis @ solution.unsqueeze(-1)), y, rtol=1e-3, atol=1e-3)
    assert -1e-3 <= float(phase.min()) < 0.1 and 3.0 < float(phase.max()) <= 3.142

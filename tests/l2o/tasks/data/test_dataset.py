import pickle

import numpy as np
import pytest
import torch

from l2o.tasks import data
from l2o.tasks.data import Dataset, Part
from l2o.types import seeded


def rows(part: Part) -> set[tuple[float, ...]]:
    return {tuple(row) for row in part.x.flatten(1).tolist()}


@pytest.mark.parametrize("name", ["digits", "iris", "wine", "breast_cancer"])
def test_bundled_sets_hold_the_examples_of_scikit_learn(name):
    original = getattr(pytest.importorskip("sklearn.datasets"), f"load_{name}")()
    dataset = getattr(data, name)()
    held_out = np.zeros(len(original.target), bool)
    for label in range(dataset.num_classes):
        held_out[np.flatnonzero(original.target == label)[4::5]] = True
    x = original.data / 16
    if name != "digits":
        train = original.data[~held_out]
        x = (original.data - train.mean(axis=0)) / train.std(axis=0, ddof=1)
    for part, mask in ((dataset.train, ~held_out), (dataset.validation, held_out)):
        np.testing.assert_allclose(part.x.flatten(1), x[mask], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(part.y, original.target[mask])


@pytest.mark.parametrize("name", ["digits", "iris", "wine", "breast_cancer"])
def test_no_class_of_a_bundled_set_is_rare_in_either_part(name):
    dataset = getattr(data, name)()
    for part in (dataset.train, dataset.validation):
        counts = part.y.bincount(minlength=dataset.num_classes)
        assert len(counts) == dataset.num_classes
        assert counts.min() > 0.7 * len(part.y) / dataset.num_classes


def test_both_sides_of_a_split_together_are_the_whole_without_overlap():
    whole = data.wine()
    first, rest = whole.split(0.3, seed=4)
    for name in ("train", "validation"):
        a, b, all_rows = (rows(getattr(d, name)) for d in (first, rest, whole))
        assert not a & b and a | b == all_rows
    assert len(first.train.x) == round(0.3 * len(whole.train.x))
    assert rows(whole.split(0.3, seed=5)[0].train) != rows(first.train)


def test_labels_stay_with_their_examples_in_a_split_and_a_subset():
    whole = data.iris()
    label = {tuple(x): y for x, y in zip(whole.train.x.tolist(), whole.train.y.tolist(), strict=True)}
    for part in (whole.split()[1].train, whole.subset([5, 3, 8]).train):
        assert all(label[tuple(x)] == y for x, y in zip(part.x.tolist(), part.y.tolist(), strict=True))
    assert torch.equal(whole.subset([5, 3]).train.x, whole.train.x[[5, 3]])
    assert torch.equal(whole.subset([5, 3]).train.y, whole.train.y[[5, 3]])


def test_a_data_set_keeps_its_identity_through_calls_splits_and_pickles_and_travels_as_a_name():
    digits = data.digits()
    half = digits.split(0.5)[1]
    for dataset in (digits, half, half.subset([1, 2]), data.shakespeare().split(0.25)[0]):
        travelling = pickle.dumps(dataset)
        assert pickle.loads(travelling) is dataset
        assert len(travelling) < 300
    assert data.digits() is digits
    assert digits.split(fraction=0.5, seed=0)[1] is half


def test_a_data_set_made_by_hand_travels_whole():
    part = Part(torch.eye(3), torch.arange(3))
    copy = pickle.loads(pickle.dumps(Dataset("by hand", part, part, 3)))
    assert torch.equal(copy.train.x, part.x) and copy.name == "by hand"


def test_bytes_are_divided_by_255_when_drawn():
    part = Part(torch.tensor([[255], [51]], dtype=torch.uint8), torch.arange(2))
    x, y = part.draw(seeded(0), 3, 4)
    assert x.shape == (3, 4, 1)
    torch.testing.assert_close(x[..., 0], torch.where(y == 0, 1.0, 0.2))


def test_labels_must_match_inputs_and_a_split_must_leave_something():
    part = Part(torch.eye(3), torch.arange(3))
    with pytest.raises(ValueError, match="one label each; got 0 inputs"):
        Dataset("empty", Part(torch.zeros(0, 3), torch.arange(0)), part, 3)
    with pytest.raises(ValueError, match="between 0 and 1"):
        data.iris().split(1.0)

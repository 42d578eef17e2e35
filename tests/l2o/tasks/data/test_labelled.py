import pickle
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch

from l2o.tasks import data
from l2o.tasks.data import LabelledDataset, from_dataset, labelled, loader
from l2o.types import seeded


def small() -> LabelledDataset:
    return labelled("small", torch.arange(12.0).view(6, 2), ["b", "a", "c", "a", "b", "c"])


@loader
def loaded() -> LabelledDataset:
    images = torch.arange(40, dtype=torch.uint8).view(10, 1, 2, 2)
    return LabelledDataset("loaded", images, torch.arange(5).repeat(2), tuple("vwxyz"))


def ragged() -> LabelledDataset:
    """Classes of 3, 5 and 4 examples in mixed order; an input is its row."""
    y = torch.tensor([1, 0, 2, 1, 1, 2, 0, 2, 1, 0, 2, 1])
    return LabelledDataset("ragged", torch.arange(12.0).view(12, 1), y)


@pytest.mark.parametrize("labels", [[30, 7, 30], [0.5, -1.0, 0.5], ["b", "a", "b"], [True, False, True]])
def test_any_labels_are_numbered_in_their_order(labels: list[object]) -> None:
    x = torch.zeros(3, 1)
    names = tuple(str(value) for value in sorted(set(labels)))  # type: ignore[type-var]
    for given in (labels, tuple(labels), np.array(labels)):
        assert labelled("any", x, given).y.tolist() == [1, 0, 1]
        assert labelled("any", x, given).class_names == names
    if not isinstance(labels[0], str):
        assert labelled("any", x, torch.tensor(labels)).y.tolist() == [1, 0, 1]
    assert small().counts.tolist() == [2, 2, 2] and small().shape == (2,) and small().num_classes == 3


@pytest.mark.parametrize(
    ("labels", "told"), [([1, "a"], "int, str"), ([None, 1], "NoneType, int"), ([[1], [2]], "list")]
)
def test_labels_without_an_order_are_refused(labels: list[object], told: str) -> None:
    with pytest.raises(TypeError, match=rf"must be numbers or strings.*got {told}"):
        labelled("unordered", torch.zeros(2, 1), labels)
    with pytest.raises(ValueError, match="must not be nan"):
        labelled("unknown", torch.zeros(2, 1), torch.tensor([1.0, float("nan")]))


@pytest.mark.parametrize(
    ("num", "y", "told"),
    [
        (3, [0, 1], "one label each"),
        (0, [], "must hold examples"),
        (2, [0, 2], "each of them present"),
        (2, [-1, 0], "each of them present"),
        (2, [0, 10**12], "each of them present"),  # and no memory is asked for a million million classes
    ],
)
def test_examples_without_a_label_and_labels_without_an_example_are_refused(num: int, y: list[int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        LabelledDataset("wrong", torch.zeros(num, 1), torch.tensor(y, dtype=torch.int64))


def test_each_class_has_a_name_or_none_has() -> None:
    with pytest.raises(ValueError, match="2 names for 3 classes"):
        LabelledDataset("wrong", torch.zeros(3, 1), torch.arange(3), ("a", "b"))


def test_bytes_are_drawn_as_floats_and_others_as_they_are() -> None:
    y = torch.tensor([0, 1, 0])
    images = LabelledDataset("bytes", torch.tensor([[255], [51], [0]], dtype=torch.uint8), y)
    rows = torch.tensor([[0, 1], [2, 1]])
    torch.testing.assert_close(images.select(rows), torch.tensor([[[1.0], [0.2]], [[0.0], [0.2]]]))
    assert images.x.tolist() == [[255], [51], [0]]
    numbers = LabelledDataset("half", torch.tensor([[2.0], [-300.0], [0.5]], dtype=torch.float16), y)
    assert numbers.select(rows).tolist() == [[[2.0], [-300.0]], [[0.5], [-300.0]]]
    floats = LabelledDataset("floats", torch.tensor([1.0, 2.0, 3.0]), y)  # an input may be a number
    floats.select(torch.tensor([0])).zero_()
    assert floats.x.tolist() == [1.0, 2.0, 3.0]


def test_those_drawn_are_different_ones_of_the_class() -> None:
    classes = torch.randint(3, (200, 4), generator=seeded(0))
    rows = ragged().draw(classes, 3, seeded(1))
    assert rows.shape == (200, 4, 3)
    assert torch.equal(ragged().y[rows], classes.unsqueeze(-1).expand(-1, -1, 3))
    assert all(len(set(row)) == 3 for row in rows.flatten(0, 1).tolist())


def test_every_order_of_every_choice_comes_equally_often() -> None:
    rows = ragged().draw(torch.full((24000,), 2), 3, seeded(0))  # class 2 has 4 examples: 24 ordered choices of 3
    seen = Counter(map(tuple, rows.tolist()))
    assert set(seen) == set(permutations([2, 5, 7, 10], 3))
    chi_square = sum((count - 1000) ** 2 / 1000 for count in seen.values())
    assert chi_square < 49.7  # 23 degrees of freedom, p = .001


def test_a_generator_decides_what_is_drawn() -> None:
    classes = torch.tensor([0, 1, 2])
    first, again, other = (ragged().draw(classes, 3, seeded(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_more_than_a_class_has_cannot_be_drawn() -> None:
    assert ragged().draw(torch.tensor([1]), 5, seeded(0)).shape == (1, 5)
    with pytest.raises(ValueError, match=r"num=4 examples each.*ragged has 3"):
        ragged().draw(torch.tensor([1, 0]), 4, seeded(0))


def test_chosen_classes_are_numbered_in_the_order_given() -> None:
    chosen = small().classes([2, 0])
    assert chosen.class_names == ("c", "a") and chosen.y.tolist() == [1, 0, 1, 0]
    assert torch.equal(chosen.x, small().x[[1, 2, 3, 5]])
    assert small().classes(torch.tensor([1]), "b alone").name == "b alone"


@pytest.mark.parametrize("index", [[], [0, 0], [3], [-1]])
def test_classes_that_are_not_there_or_come_twice_are_refused(index: list[int]) -> None:
    with pytest.raises(ValueError, match="different ones of the 3 of small"):
        small().classes(index)


def test_parts_have_no_common_class_and_the_seed_decides() -> None:
    whole = LabelledDataset("ten", torch.arange(30).view(30, 1), torch.arange(10).repeat(3))
    parts = whole.split((5, 3, 2), seed=1)
    seen = [set((part.x.flatten() % 10).tolist()) for part in parts]
    assert [len(s) for s in seen] == [5, 3, 2] and len(set.union(*seen)) == 10
    assert all(len(part.x) == 3 * part.num_classes for part in parts)
    assert torch.equal(parts[0].x, whole.split((5, 3, 2), seed=1)[0].x)
    assert not torch.equal(parts[0].x, whole.split((5, 3, 2), seed=2)[0].x)
    for sizes in ((8, 3), (5, 0), ()):
        with pytest.raises(ValueError, match="sum to at most the 10 classes"):
            whole.split(sizes)


def test_rotations_are_classes_of_their_own() -> None:
    image = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)
    pair = torch.stack([image, 10 * image]).unsqueeze(1)
    turned = LabelledDataset("two", pair, torch.tensor([0, 1]), ("x", "y")).with_rotations()
    assert turned.num_classes == 8 and turned.counts.tolist() == [1] * 8
    assert turned.class_names == tuple(f"{n}, {a} degrees" for a in (0, 90, 180, 270) for n in "xy")
    # counter-clockwise
    turns = [[1, 2, 3, 4], [2, 4, 1, 3], [4, 3, 2, 1], [3, 1, 4, 2]]
    for i, (x, y) in enumerate(zip(turned.x, turned.y.tolist(), strict=True)):
        assert y == i and x.flatten().tolist() == [value * (10 if y % 2 else 1) for value in turns[y // 2]]
    with pytest.raises(ValueError, match="square images"):
        small().with_rotations()


def test_pickles_hold_data_made_by_hand() -> None:
    again = pickle.loads(pickle.dumps(small()))
    assert torch.equal(again.x, small().x) and again.class_names == small().class_names
    part = small().classes([1])
    assert part.call is None and torch.equal(pickle.loads(pickle.dumps(part)).x, part.x)


def test_what_comes_of_loaded_data_travels_as_a_call_and_stays_the_same_object() -> None:
    whole = loaded()
    for made in (whole, whole.split((2, 3), seed=3)[1], whole.with_rotations(), whole.classes([4, 0]).with_rotations()):
        travelling = pickle.dumps(made)
        assert pickle.loads(travelling) is made and len(travelling) < 400
    assert whole.split((2, 3))[0] is whole.split([2, 3])[0]
    assert not torch.equal(whole.split((2, 3), seed=3)[0].x, whole.split((2, 3), seed=4)[0].x)


def test_a_data_set_in_two_parts_is_one_of_classes() -> None:
    digits = data.digits()
    whole = from_dataset(digits)
    assert whole.num_classes == 10 and len(whole.x) == 1797 and whole.shape == (1, 8, 8)
    assert torch.equal(whole.y[-5:], digits.validation.y[-5:]) and torch.equal(whole.x[:5], digits.train.x[:5])
    assert pickle.loads(pickle.dumps(whole)) is whole is from_dataset(digits)

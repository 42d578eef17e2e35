import pytest
import torch

from l2o.tasks import AssociativeRecall, Copy, RepeatCopy
from l2o.tasks.sequences import SequenceSource, bit_loss, bits_wrong
from l2o.types import seeded

SOURCES = [
    Copy(bits=3, length=(1, 5)),
    RepeatCopy(bits=3, length=(1, 4), repeats=(1, 3)),
    AssociativeRecall(bits=4, item=2, items=(2, 4)),
]
every_source = pytest.mark.parametrize("source", SOURCES, ids=lambda source: type(source).__name__)


@every_source
def test_shapes_are_as_told_and_answers_come_after_the_question(source: SequenceSource) -> None:
    lengths = set()
    for seed in range(40):
        drawn = source.sample(seeded(seed), 6)
        time = drawn.x.shape[1]
        assert drawn.x.shape == (6, time, source.inputs) and drawn.y.shape == (6, time, source.outputs)
        assert drawn.mask.shape == (6, time) and time <= source.longest
        answered = drawn.mask[0]
        assert answered.any() and torch.equal(drawn.mask, drawn.mask[:1].expand(6, -1))
        assert not drawn.x[:, answered].any() and not drawn.y[:, ~answered].any()
        assert ((drawn.y == 0) | (drawn.y == 1)).all()
        lengths.add(time)
    assert max(lengths) == source.longest and len(lengths) > 2


def test_a_copy_says_what_was_shown() -> None:
    drawn = Copy(bits=3, length=(4, 4)).sample(seeded(0), 5)
    assert torch.equal(drawn.y[:, 5:], drawn.x[:, :4, :3])
    assert torch.equal(drawn.x[:, :, 3], torch.eye(9)[4].expand(5, -1))
    assert 0.3 < drawn.y[:, 5:].mean() < 0.7 and len(set(map(str, drawn.y.tolist()))) == 5


def test_a_repeat_copy_says_it_so_often_and_that_all_is_said() -> None:
    drawn = RepeatCopy(bits=3, length=(2, 2), repeats=(3, 3), known=(1, 3)).sample(seeded(0), 5)
    said = drawn.y[:, drawn.mask[0]]
    assert torch.equal(said[:, :6, :3], drawn.x[:, :2, :3].repeat(1, 3, 1)) and not said[:, :6, 3].any()
    assert torch.equal(said[:, 6], torch.eye(4)[3].expand(5, -1))
    assert torch.equal(drawn.x[:, 2, 3], torch.ones(5))
    torch.testing.assert_close(drawn.x[:, 2, 4], torch.full((5,), 1.5**0.5))  # 3 of 1, 2, 3


def test_the_number_of_repeats_has_mean_zero_and_variance_one() -> None:
    source = RepeatCopy()
    values = torch.tensor([source._standard(k) for k in range(1, 11)])
    torch.testing.assert_close(values.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(values.var(correction=0), torch.tensor(1.0))


def test_associative_recall_says_the_item_after_the_one_that_is_asked_for() -> None:
    source, asked = AssociativeRecall(bits=8, item=2, items=(4, 4)), set()
    drawn = source.sample(seeded(0), 50)
    x = drawn.x[:, :15].unflatten(1, (5, 3))
    assert torch.equal(x[:, :, 0, 8], torch.tensor([1.0, 1, 1, 1, 0]).expand(50, -1))
    assert torch.equal(x[:, :, 0, 9], torch.tensor([0.0, 0, 0, 0, 1]).expand(50, -1))
    assert torch.equal(drawn.x[:, 15, 9], torch.ones(50)) and not drawn.x[:, 16:].any()
    for shown, answer in zip(x[:, :, 1:, :8], drawn.y[:, 16:], strict=True):
        place = next(i for i in range(4) if torch.equal(shown[i], shown[4]))
        assert torch.equal(answer, shown[place + 1])
        asked.add(place)
    assert asked == {0, 1, 2}


def test_wrong_bits_are_counted_where_they_are_judged() -> None:
    drawn = Copy(bits=3, length=(2, 2)).sample(seeded(0), 4)
    perfect = 20 * drawn.y - 10
    assert torch.equal(bits_wrong(perfect, drawn), torch.zeros(4)) and bit_loss(perfect, drawn) < 1e-4
    perfect[:, :3] *= -1  # while it is shown nothing is judged
    assert torch.equal(bits_wrong(perfect, drawn), torch.zeros(4)) and bit_loss(perfect, drawn) < 1e-4
    perfect[1, 3, 0] *= -1
    perfect[2, 4, 1] = float("nan")
    assert torch.equal(bits_wrong(perfect, drawn), torch.tensor([0.0, 1, 1, 0]))


def test_saying_nothing_costs_a_bit_a_bit() -> None:
    drawn = Copy(bits=3, length=(2, 2)).sample(seeded(0), 4)
    torch.testing.assert_close(bit_loss(torch.zeros_like(drawn.y), drawn), torch.tensor(2.0).log())


def test_ranges_are_checked() -> None:
    with pytest.raises(ValueError, match="length must be a least and a most number, from 1 on"):
        Copy(length=(0, 3))
    with pytest.raises(ValueError, match="repeats must be"):
        RepeatCopy(repeats=(3, 2))
    with pytest.raises(ValueError, match="items must be a least and a most number, from 2 on"):
        AssociativeRecall(items=(1, 3))

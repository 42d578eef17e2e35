from functools import partial

import pytest
import torch
from torch import Tensor, nn

from l2o.tasks import LabelShiftedStream, StreamTask
from l2o.tasks.data import LabelledDataset
from l2o.tasks.stream import accuracy_by_instance, instance_numbers, labels_before, stream_loss
from l2o.types import seeded

WAY, INSTANCES = 4, 6


def numbered(classes: int = 12, each: int = 8) -> LabelledDataset:
    """Inputs tell their class and their row."""
    y = torch.arange(classes).repeat_interleave(each)
    return LabelledDataset("numbered", torch.stack([y, torch.arange(len(y))], dim=1).float(), y)


SOURCE = LabelShiftedStream(numbered(), WAY, INSTANCES)


def test_a_stream_has_each_class_so_often_under_one_label_and_no_example_twice() -> None:
    stream = SOURCE.sample(seeded(0), 100)
    assert stream.x.shape == (100, WAY * INSTANCES, 2) and stream.y.shape == (100, WAY * INSTANCES)
    firsts, labels_of = set(), set()
    for x, y in zip(stream.x, stream.y, strict=True):
        assert torch.equal(y.bincount(), torch.full((WAY,), INSTANCES))
        assert len(set(x[:, 1].tolist())) == len(x)
        classes = {(int(c), int(label)) for (c, _), label in zip(x, y, strict=True)}
        assert len(classes) == WAY
        labels_of |= classes
        firsts.add(int(y[0]))
    assert len(firsts) == WAY and len(labels_of) == WAY * 12  # any class may have any label, any label be the first


def test_labels_come_a_step_late() -> None:
    y = torch.tensor([[2, 0, 1]])
    assert torch.equal(labels_before(y, 3), torch.tensor([[[0.0, 0, 0], [0, 0, 1], [1, 0, 0]]]))


def test_instances_are_counted_from_one() -> None:
    y = torch.tensor([[0, 1, 0, 0, 1], [1, 1, 1, 0, 1]])
    assert torch.equal(instance_numbers(y), torch.tensor([[1, 1, 2, 3, 2], [1, 2, 3, 1, 4]]))


def test_accuracy_is_told_by_instance() -> None:
    y = torch.tensor([[0, 1, 0, 0, 1], [1, 1, 1, 0, 1]])
    answers = torch.tensor([[1, 1, 0, 0, 1], [0, 1, 1, 1, 0]])
    found = accuracy_by_instance(torch.eye(2)[answers], y, (1, 2, 3, 4))
    assert found == {1: 0.25, 2: 1.0, 3: 1.0, 4: 0.0}


def test_who_knows_which_labels_are_taken_meets_the_limit_at_the_first_instance() -> None:
    stream = LabelShiftedStream(numbered(), 3, 5).sample(seeded(1), 3000)
    classes = stream.x[..., 0]
    known = (classes.unsqueeze(1) == classes.unsqueeze(2)).tril(-1)  # which of those before are of its class
    taken = labels_before(stream.y, 3).cumsum(1)
    of_class = (known.float() @ torch.eye(3)[stream.y]).clamp(max=1)
    scores = torch.where(known.any(-1, keepdim=True), of_class, 1 - taken.clamp(max=1))
    scores = scores + 0.01 * torch.rand(scores.shape, generator=seeded(0))
    found = accuracy_by_instance(scores, stream.y, (1, 2, 5))
    assert found[1] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3, abs=0.02)
    assert found[2] == found[5] == 1.0


class Remembers(nn.Module):
    """Says the label before, times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        return self.weight * before


def test_the_loss_is_that_of_the_answers_to_late_labels() -> None:
    task = StreamTask(Remembers, SOURCE, batch_size=3)
    params, batch = task.init(seeded(0)), task.sample_batch(seeded(1))
    expected = stream_loss(params["weight"] * labels_before(batch.y, WAY), batch.y)
    torch.testing.assert_close(task.loss(params, batch), expected)


def test_bad_sizes_are_told() -> None:
    with pytest.raises(ValueError, match="way must be from 1 to 12"):
        LabelShiftedStream(numbered(), way=13)
    with pytest.raises(ValueError, match="instances must be from 1 to 8"):
        LabelShiftedStream(numbered(), way=5, instances=10)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        StreamTask(partial(Remembers), SOURCE, batch_size=0)

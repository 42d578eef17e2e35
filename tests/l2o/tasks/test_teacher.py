import pytest
import torch

from l2o.tasks import StudentClassification, StudentFamily, StudentRegression
from l2o.tasks.base import stack_tasks
from l2o.tasks.nets import apply_mlp
from l2o.tasks.teacher import random_mixing
from l2o.types import seeded


def test_inputs_have_the_covariance_that_was_asked_for():
    mixing = random_mixing(6, torch.tensor(2.0), seeded(0))
    eigenvalues = torch.arange(1, 7.0) ** -2
    expected = (eigenvalues / eigenvalues.mean()).sort().values
    torch.testing.assert_close(torch.linalg.eigvalsh(mixing @ mixing.T), expected, rtol=1e-4, atol=1e-5)

    task = StudentFamily(features=(6,), decay=(2.0, 2.0), batch_size=(20_000,)).sample(seeded(1))
    torch.testing.assert_close(
        task.sample_batch(seeded(2))[0].T.cov(), task.mixing @ task.mixing.T, rtol=0.1, atol=0.05
    )


@pytest.mark.parametrize("teacher_hidden", [0, 16])
def test_no_class_is_rare(teacher_hidden):
    for seed in range(5):
        task = StudentFamily(teacher_hidden=(teacher_hidden,), batch_size=(5000,)).sample(seeded(seed))
        assert task.sample_batch(seeded(0))[1].bincount(minlength=5).min() > 5000 / 5 / 3


def test_label_noise_is_as_frequent_as_asked():
    task = StudentFamily(outputs=(4,), noise=(0.4, 0.4), batch_size=(20_000,)).sample(seeded(0))
    x, y = task.sample_batch(seeded(1))
    wrong = (apply_mlp(task.teacher, x, "tanh").argmax(dim=-1) != y).float().mean()
    assert wrong.item() == pytest.approx(0.4 * 3 / 4, abs=0.02)


def test_the_teacher_itself_makes_no_error():
    family = StudentFamily(task=(StudentRegression,), hidden=(16,), activation=("tanh",), noise=(0.0, 0.0))
    task = family.sample(seeded(0))
    assert task.loss(task.teacher, task.sample_batch(seeded(1))) < 1e-10
    scores = task.sample_batches(seeded(2), 50)[1].flatten(0, 1)
    assert scores.mean(dim=0).abs().max() < 0.15 and (scores.std(dim=0) - 1).abs().max() < 0.15


def test_different_teachers_stack():
    family = StudentFamily(task=(StudentClassification, StudentRegression), features=(4, 8)).fix(seeded(0))
    stacked = stack_tasks([family.sample(seeded(i)) for i in range(3)])
    assert not torch.equal(stacked["mixing"][0], stacked["mixing"][1])
    assert not torch.equal(stacked["teacher.0.weight"][0], stacked["teacher.0.weight"][1])

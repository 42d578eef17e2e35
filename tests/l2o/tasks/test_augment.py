import pytest
import torch
from torch.func import grad

from l2o.tasks import MLPFamily, NoisyGradientFamily, ReparametrisedFamily, ScaledLossFamily
from l2o.types import seeded

MLP = MLPFamily(hidden=(4,), activation=("tanh",), batch_size=(8,))


@pytest.mark.parametrize("level", ["global", "tensor", "parameter"])
def test_new_units_change_neither_the_start_nor_the_task(level):
    for seed in range(4):
        task = ReparametrisedFamily(MLP, level=(level,)).sample(seeded(seed))
        batch, params, inner = task.sample_batch(seeded(1)), task.init(seeded(2)), task.task.init(seeded(2))
        torch.testing.assert_close(task.loss(params, batch), task.task.loss(inner, batch))
        outer_grad, inner_grad = grad(task.loss)(params, batch), grad(task.task.loss)(inner, batch)
        for name, scale in task.scales.items():
            assert (scale >= 1e-3).all() and (scale <= 1e3).all()
            torch.testing.assert_close(task.original(params)[name], inner[name])
            torch.testing.assert_close(outer_grad[name], scale * inner_grad[name])


def test_levels_differ_in_how_many_factors_they_draw():
    def factors(level):
        scales = ReparametrisedFamily(MLP, level=(level,)).sample(seeded(0)).scales
        return torch.cat([s.flatten() for s in scales.values()]).unique().numel(), len(scales)

    assert factors("global")[0] == 1
    num, tensors = factors("tensor")
    assert num == tensors
    assert factors("parameter")[0] > 100


def test_factors_are_log_uniform():
    family = ReparametrisedFamily(MLP, scale=(1e-3, 1e3), level=("parameter",))
    logs = torch.cat([s.flatten() for s in family.sample(seeded(0)).scales.values()]).log10()
    assert logs.mean().abs() < 0.3 and (logs.std() - 6 / 12**0.5).abs() < 0.2


def test_without_a_level_the_task_is_left_alone():
    assert type(ReparametrisedFamily(MLP, level=("none",)).sample(seeded(0))).__name__ == "MLPClassification"


def test_a_scale_must_be_positive():
    with pytest.raises(ValueError, match="0 < low <= high"):
        ReparametrisedFamily(MLP, scale=(0.0, 1.0)).sample(seeded(0))


def test_a_scaled_loss_is_scaled():
    task = ScaledLossFamily(MLP, scale=(7.0, 7.0)).sample(seeded(0))
    params, batch = task.init(seeded(1)), task.sample_batch(seeded(2))
    torch.testing.assert_close(task.loss(params, batch), 7 * task.task.loss(params, batch))


def test_gradient_noise_is_added_to_gradients_only():
    task = NoisyGradientFamily(MLP, deviation=(0.5, 0.5)).sample(seeded(0))
    params, (batch, noise) = task.init(seeded(1)), task.sample_batch(seeded(2))
    assert task.loss(params, (batch, noise)) == task.task.loss(params, batch)
    noisy, clean = grad(task.loss)(params, (batch, noise)), grad(task.task.loss)(params, batch)
    for name, g in clean.items():
        torch.testing.assert_close(noisy[name] - g, noise[name], rtol=1e-4, atol=1e-6)
    assert torch.cat([n.flatten() for n in noise.values()]).std().item() == pytest.approx(0.5, rel=0.1)

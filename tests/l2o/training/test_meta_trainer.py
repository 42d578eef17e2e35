import pytest
import torch

from l2o.distributed import LocalPool
from l2o.estimators import NRES, PES, Backprop, Problems, Truncation
from l2o.rules import LSTMRule
from l2o.tasks import Quadratics
from l2o.training.checkpoint import load_tree, save_tree
from l2o.training.meta_trainer import MetaTrainer, theta_of


def make_trainer(kind, seed=0, num_workers=2):
    torch.manual_seed(seed)
    rule = LSTMRule(hidden_size=4)
    schedule = Truncation(window=3, horizon=(3, 9), stagger=True)
    problems = Problems(rule, Quadratics(3), num_tasks=2, truncation=schedule, order="first")
    estimator = Backprop(problems) if kind is Backprop else kind(problems, std=0.01)
    pool = LocalPool(estimator, theta_of(rule), num_workers, seed)
    optimizer = torch.optim.Adam(rule.parameters(), lr=1e-2)
    return MetaTrainer(rule, pool, optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9))


@pytest.mark.parametrize("kind", [Backprop, PES, NRES])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, kind):
    whole = make_trainer(kind)
    metrics = [whole.step() for _ in range(7)]

    first = make_trainer(kind)
    for _ in range(4):
        first.step()
    save_tree(first.state_dict(), tmp_path / "c.safetensors")
    second = make_trainer(kind, seed=5)
    second.load_state_dict(load_tree(tmp_path / "c.safetensors"))
    resumed = [second.step() for _ in range(3)]

    assert resumed == metrics[4:]
    for name, value in theta_of(whole.module).items():
        assert torch.equal(value, theta_of(second.module)[name])


def test_the_same_seed_gives_the_same_run_and_another_does_not():
    one, two, other = make_trainer(PES), make_trainer(PES), make_trainer(PES, seed=1)
    assert one.step() == two.step() != other.step()


def test_a_step_leaves_the_global_generator_alone():
    trainer = make_trainer(PES)
    before = torch.get_rng_state()
    trainer.step()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_broken", [1, 2])
def test_gradients_that_are_not_finite_are_left_out_and_a_step_of_none_is_skipped(monkeypatch, num_broken):
    trainer, whole = make_trainer(Backprop), make_trainer(Backprop)
    theta = {name: value.clone() for name, value in theta_of(trainer.module).items()}
    real = trainer.pool.estimate

    def broken(theta):
        estimates = real(theta)
        for one in estimates[:num_broken]:
            one.gradient.grads["output"].fill_(float("nan"))
        return estimates

    monkeypatch.setattr(trainer.pool, "estimate", broken)
    metrics = trainer.step()
    assert metrics["skipped"] == (num_broken == 2) and metrics["not_finite"] == num_broken
    assert trainer.entry["not_finite"] == [[i, 1] for i in range(num_broken)]
    assert trainer.entry["used"] == [[1, 1, 0]][num_broken - 1 :]
    whole.pool.workers = whole.pool.workers[num_broken:]
    if num_broken == 1:
        whole.step()
    for name, value in theta_of(trainer.module).items():
        assert torch.equal(value, theta[name] if num_broken == 2 else theta_of(whole.module)[name])


def test_stale_estimates_count_by_their_weights(monkeypatch):
    trainer = make_trainer(PES)
    optimizer = torch.optim.SGD(trainer.module.parameters(), lr=1.0)
    trainer = MetaTrainer(trainer.module, trainer.pool, optimizer, max_grad_norm=None)
    before = {name: value.clone() for name, value in theta_of(trainer.module).items()}
    weighted = [one._replace(weight=w) for one, w in zip(trainer.pool.estimate(before), (1.0, 0.25), strict=True)]
    monkeypatch.setattr(trainer.pool, "estimate", lambda theta: weighted)
    trainer.step()
    for name, value in theta_of(trainer.module).items():
        a, b = (one.gradient.grads[name] for one in weighted)
        torch.testing.assert_close(value, before[name] - (0.8 * a + 0.2 * b))


def test_another_number_of_workers_than_was_saved_is_refused():
    state = make_trainer(PES, num_workers=2).state_dict()
    with pytest.raises(ValueError, match="got 3 workers for 2 saved"):
        make_trainer(PES, num_workers=3).load_state_dict(state)


def test_the_state_of_another_estimator_or_module_is_refused():
    with pytest.raises(ValueError, match="Backprop has a ProblemState, got a ESState"):
        make_trainer(Backprop).load_state_dict(make_trainer(PES).state_dict())
    other = make_trainer(PES)
    other.module.output = torch.nn.Parameter(torch.zeros(5))
    with pytest.raises(ValueError, match=r"(?s)the module it was saved with.*size mismatch for output"):
        other.load_state_dict(make_trainer(PES).state_dict())


def test_the_clipped_gradient_has_the_asked_norm():
    trainer = make_trainer(Backprop)
    seen = {}
    trainer.max_grad_norm = 1e-3

    def look(optimizer, args, kwargs):
        seen["norm"] = torch.cat([p.grad.flatten() for p in trainer.module.parameters()]).norm().item()

    trainer.optimizer.register_step_pre_hook(look)
    metrics = trainer.step()
    assert metrics["grad_norm"] > 1e-3 and seen["norm"] == pytest.approx(1e-3, rel=1e-3)


def test_a_state_whose_tensors_a_fused_step_would_overrun_is_refused():
    trainer = make_trainer(PES)
    trainer.step()
    state = trainer.state_dict()
    trainer.load_state_dict(state)
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(1)
    with pytest.raises(ValueError, match="the state of a Adam must be one that it makes itself: for parameter 0"):
        trainer.load_state_dict(state)


def test_a_state_that_is_none_is_told():
    trainer = make_trainer(PES)
    for broken in ({}, {"module": 3}, {**trainer.state_dict(), "pool": {"workers": [1, 2]}}):
        with pytest.raises(ValueError, match="must resume with the module it was saved with"):
            trainer.load_state_dict(broken)

import math

import pytest
import torch

from l2o.load import load
from l2o.tasks import Quadratic, Quadratics, StyblinskiTang
from l2o.training import report
from l2o.training.evaluate import Contestant, compare, final_loss, half_interval, interval, speed_up, steps_to
from l2o.types import seeded

RATES = (1e-3, 1e-2, 1e-1, 1.0, 1e3)


def bowl():
    return {"bowl": Quadratics(dim=4).sample(seeded(0))}


def test_the_best_rate_is_chosen_and_every_rate_is_reported():
    (result,) = compare({"SGD": Contestant(load("sgd", lr=1.0), RATES)}, bowl(), num_steps=30, num_seeds=3)
    assert set(result.swept) == set(RATES)
    assert result.rate == min(result.swept, key=lambda rate: result.swept[rate])
    assert float(result.final.mean()) == pytest.approx(result.swept[result.rate])
    assert math.isinf(result.swept[1e3]), "a diverged rate must not win by being not a number"


def test_curves_equal_a_plain_training_loop():
    task = bowl()["bowl"]
    (result,) = compare({"SGD": Contestant(load("sgd", lr=1.0), (0.1,))}, {"b": task}, num_steps=5, num_seeds=2)
    w = task.init(seeded(1))["w"].requires_grad_()
    for step in range(5):
        loss = task.loss({"w": w}, None)
        torch.testing.assert_close(result.losses[1, step], loss.detach())
        (grad,) = torch.autograd.grad(loss, w)
        w = (w - 0.1 * grad).detach().requires_grad_()


def test_all_contestants_start_from_the_same_parameters():
    sweep = {name: Contestant(load(name, lr=1.0), RATES) for name in ("sgd", "adam")}
    one, two = compare(sweep, bowl(), num_steps=3, num_seeds=2)
    assert torch.equal(one.losses[:, 0], two.losses[:, 0])


def test_speed_up_counts_steps_to_the_baselines_final_loss():
    fast = torch.tensor([[1.0] * 20 + [0.1] * 80])
    assert steps_to(fast, 0.1001).tolist() == [30.0]  # ten steps' average must be there
    assert math.isinf(float(steps_to(fast, 0.01)))
    results = compare({"a": Contestant(load("sgd", lr=0.1))}, bowl(), num_steps=40, num_seeds=2)
    assert float(speed_up(results[0], results[0]).max()) >= 1.0


def test_the_final_loss_of_a_diverged_run_is_infinite():
    assert final_loss(torch.tensor([[1.0, float("nan"), 0.0], [2.0, 1.0, 0.5]])).tolist() == [float("inf"), 0.5]


def test_the_interval_covers_the_mean_at_its_level():
    covered = 0
    for seed in range(200):
        low, high = interval(torch.randn(20, generator=seeded(seed)))
        covered += low <= 0 <= high
    assert 0.88 <= covered / 200 <= 0.99


@pytest.mark.parametrize("n", [2, 5, 10, 11, 12, 40, 1000])
def test_half_an_interval_is_student_s(n):
    stats = pytest.importorskip("scipy.stats")
    values = torch.randn(n, generator=seeded(n))
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values.numpy()))
    assert half_interval(values) == pytest.approx((high - low) / 2, rel=2e-3)
    assert math.isnan(half_interval(values[:1]))


def test_the_report_shows_every_method_and_a_figure(tmp_path):
    sweep = {name: Contestant(load(name, lr=1.0), RATES) for name in ("sgd", "adam")}
    results = compare(sweep, bowl(), num_steps=10, num_seeds=2)
    (first, second) = report.rows(results, ("adam",))
    for name, mean in (("final", "final_loss"), ("area", "area"), ("speed_up_adam", "speed_up_adam")):
        assert first[f"{name}_low"] <= first[mean] <= first[f"{name}_high"]
    assert second["speed_up_adam"] >= 0
    assert report.table(results, "t", "adam").row_count == 2
    report.figure(results).savefig(tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 5000


def test_negative_and_diverging_losses_can_be_seen():
    valley = {"valley": StyblinskiTang.plain(2)}
    results = compare(
        {"SGD": Contestant(load("sgd", lr=1.0), (1e-2,)), "wild": Contestant(load("sgd", lr=9.0))}, valley, 20
    )
    assert results[0].losses.min() < 0 and not results[1].losses.isfinite().all()
    (panel,) = report.figure(results).axes
    low, high = panel.get_ylim()
    assert low < results[0].losses.min() and results[0].losses[:, 0].max() < high < 2000


def test_an_empty_comparison_is_refused():
    with pytest.raises(ValueError, match="needs contestants and tasks"):
        compare({}, {"q": Quadratic(torch.eye(2), torch.zeros(2))}, 3)

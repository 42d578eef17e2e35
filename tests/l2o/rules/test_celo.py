from collections.abc import Callable
from functools import partial

import pytest
import torch

from l2o.rules import Celo, CeloAdam, OptState, UpdateRule
from l2o.rules.celo import Schedule
from l2o.rules.loss_features import init_losses, update_losses
from l2o.types import Params, seeded

# steps are compared with those of the published code in tests/l2o/test_released.py


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed))


def moved(rule: UpdateRule) -> UpdateRule:
    with torch.no_grad():
        for p in rule.parameters():
            p += 0.3 * torch.randn(p.shape, generator=seeded(0))
    return rule


def step(rule: UpdateRule, params: Params, grads: Params, total_steps: int | None = None, at: int = 0) -> Params:
    state = rule.init(params, total_steps)._replace(step=torch.tensor(at))
    with torch.no_grad():
        return rule(grads, state, params)[0]


def test_it_has_the_published_sizes() -> None:
    schedule = 2 * (18 * 64 + 64) + 2 * 64 + 128 * 256 + 256 + 64 + 1
    assert sum(p.numel() for p in CeloAdam().parameters()) == schedule == 36865 - 18 * 64 - 64
    network = 30 * 4 + 4 + 4 * 4 + 4 + 4 * 2 + 2
    assert sum(p.numel() for p in Celo().parameters()) == schedule + network == 37089 - 18 * 64 - 64 - 65 - 5


def test_a_fresh_multiplier_is_about_a_tenth() -> None:
    params = {"w": draw(3, 2)}
    state = OptState(torch.tensor(0), {}, Schedule(8).init(params, 100))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        multiplier, _ = Schedule(8)(state, torch.tensor(1.0))
    assert 0.05 < float(multiplier) < 0.2


def test_steps_of_celo_are_relative_to_the_parameters_size() -> None:
    rule, p, grad = moved(Celo(lstm_hidden_size=6)), draw(4, 3), draw(4, 3, seed=1)
    one, ten = (step(rule, {"w": c * p}, {"w": grad})["w"] for c in (1.0, 10.0))
    torch.testing.assert_close(ten, 10 * one, rtol=1e-3, atol=1e-6)


def test_celo_moves_coordinates_that_never_had_a_gradient_and_celo_adam_does_not() -> None:
    params, grads = {"w": draw(4, 3)}, {"w": torch.zeros(4, 3)}
    assert step(moved(Celo(lstm_hidden_size=6)), params, grads)["w"].abs().min() > 0
    assert step(moved(CeloAdam(lstm_hidden_size=6)), params, grads)["w"].abs().max() == 0


def test_celo_adam_is_adam_with_the_learning_rate_of_the_schedule() -> None:
    rule, params, grads = moved(CeloAdam(lstm_hidden_size=6)), {"w": draw(4, 3)}, {"w": draw(4, 3, seed=1)}
    update = step(rule, params, grads)["w"]
    rates = -update / grads["w"].sign()  # the first step of Adam
    assert rates.min() > 0
    torch.testing.assert_close(rates, rates.mean().expand_as(rates), rtol=1e-4, atol=0)


@pytest.mark.parametrize("make", [Celo, CeloAdam])
def test_the_schedule_follows_the_fraction_trained_where_the_length_is_known(make: Callable[..., UpdateRule]) -> None:
    rule, params, grads = moved(make(lstm_hidden_size=6)), {"w": draw(3, 2)}, {"w": draw(3, 2, seed=1)}
    first, early, late = (step(rule, params, grads, 100, at)["w"] for at in (0, 5, 90))
    assert (early - late).abs().max() > 1e-3 * late.abs().max()
    unknown_first, unknown_late = (step(rule, params, grads, None, at)["w"] for at in (0, 90))
    torch.testing.assert_close(unknown_first, first)
    assert not torch.equal(unknown_late, unknown_first), "the LSTM starts from a learned state at the first step only"


def test_the_cap_of_losses_is_too_low_at_first() -> None:
    state = init_losses(torch.tensor(100.0))
    for loss in (1.0, 1.9):
        ours, theirs = update_losses(state, torch.tensor(loss)), update_losses(state, torch.tensor(loss), early=True)
        state = ours
    assert (theirs["loss_means"] < ours["loss_means"]).all()


def test_half_lives_of_a_very_short_run_fall() -> None:
    half_lives = -1.0 / Schedule(4).init({"w": draw(2)}, 5)["loss_log_decays"]
    torch.testing.assert_close(half_lives[[0, -1]], torch.tensor([10.0, 5.0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(Celo, lstm_hidden_size=0), "lstm_hidden_size must be >= 1"),
        (partial(Celo, num_layers=0), "needs a hidden unit"),
        (partial(Celo, step_scale=0.0), "step_scale must be > 0"),
        (partial(CeloAdam, max_gradient=0.0), "max_gradient must be > 0"),
        (partial(CeloAdam, betas=(0.9,)), "two numbers"),
        (partial(CeloAdam, eps=-1.0), "eps must be >= 0"),
    ],
)
def test_bad_arguments_are_refused(make: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

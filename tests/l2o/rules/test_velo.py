import math

import numpy as np
import pytest
import torch

from l2o.rules import VeLO
from l2o.rules.features import init_averages
from l2o.rules.loss_features import init_losses, loss_features, update_losses
from l2o.rules.velo import NUM_TENSOR_FEATURES, rank_features, statistics, tensor_features
from l2o.types import Params, seeded


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed))


def step(rule: VeLO, params: Params, total_steps: int | None = None, loss: float | None = None, at: int = 0) -> Params:
    state = rule.init(params, total_steps)._replace(step=torch.tensor(at))
    grads = {key: p.cos() for key, p in params.items()}
    with torch.no_grad():
        return rule(grads, state, params, None if loss is None else torch.tensor(loss))[0]


def small() -> VeLO:
    rule = VeLO(lstm_hidden_size=6, num_bank=4)
    with torch.no_grad():
        for p in rule.controller.parameters():
            p += 0.3 * torch.randn(p.shape, generator=seeded(0))
    return rule


def test_it_has_28_tensor_features_and_30_of_a_coordinate() -> None:
    assert NUM_TENSOR_FEATURES == 28
    rule = VeLO(lstm_hidden_size=8, num_bank=5)
    assert rule.controller.mix1.in_features == 28
    assert rule.bank.shape == (5, 30 * 4 + 4 + 4 * 4 + 4 + 4 * 2 + 2)


def test_steps_are_relative_to_the_parameters_size() -> None:
    rule, p, grad = small(), draw(4, 3), draw(4, 3, seed=1)
    with torch.no_grad():
        rule.controller.blend.weight.zero_()  # one network for tensors of any size
        rule.controller.multiplier.weight.zero_()
        one, ten = (rule({"w": grad}, rule.init({"w": c * p}), {"w": c * p})[0]["w"] for c in (1.0, 10.0))
    torch.testing.assert_close(ten, 10 * one, rtol=1e-3, atol=1e-6)


def test_tensors_see_each_other_through_the_maximum_only() -> None:
    rule = small()
    alone = step(rule, {"a": draw(3, 2)})["a"]
    twice = step(rule, {"a": draw(3, 2), "b": draw(3, 2)})
    torch.testing.assert_close(twice["a"], alone, rtol=1e-4, atol=1e-5)  # an equal tensor does not change the maximum
    torch.testing.assert_close(twice["b"], alone, rtol=1e-4, atol=1e-5)
    other = step(rule, {"a": draw(3, 2), "b": 100 * draw(7, seed=1)})["a"]
    assert (other - alone).abs().max() > 1e-6


def test_it_follows_the_schedule_only_where_the_length_is_known() -> None:
    rule, params = small(), {"w": draw(3, 2)}
    early, late = (step(rule, params, total_steps=100, at=at)["w"] for at in (0, 90))
    assert (early - late).abs().max() > 1e-7
    early, late = (step(rule, params, at=at)["w"] for at in (0, 90))
    torch.testing.assert_close(early, late, rtol=0, atol=0)


def test_the_memory_of_a_tensor_is_carried_on() -> None:
    rule, params = small(), {"w": draw(3, 2)}
    state = rule.init(params)
    with torch.no_grad():
        _, state = rule(params, state, params)
    hidden = state.slots["w"]["hidden"]
    assert hidden.shape == (2, 6)
    assert hidden.abs().min() > 0


def test_a_fresh_rule_multiplies_by_one_and_blends_networks_of_unit_size() -> None:
    torch.manual_seed(0)
    rule = VeLO()
    features, hidden = torch.randn(7, 28), torch.zeros(7, 2, 64)
    with torch.no_grad():
        controls, multipliers, _ = rule.controller(features, hidden)
    torch.testing.assert_close(multipliers, torch.ones(7))
    blended = 100.0 / 32 * controls @ rule.bank
    ratio = float((blended[:, :120].std() / rule.bank[:, :120].std()).detach())
    assert 0.4 < ratio < 2.5


def test_tensor_features_are_clipped_logarithms_and_the_rank() -> None:
    p = torch.full((3, 1, 2), 2.0)
    slot = init_averages(p)
    slot["momenta"][1, 0] = 4.0  # mean 4/3, variance 32/9, in units of the parameters / 4
    slot["second"][:] = 6.0
    found = torch.cat([tensor_features(statistics(p, slot).unsqueeze(0))[0], rank_features([p.shape], p)[0]])
    zero = max(math.log(1e-8), -5.0) * 0.5
    variance = 0.5 * math.log(10 * 32 / 9 / 4)
    expected = [zero, variance, zero, 0.5 * math.log(10 * 3.0), zero, 0.0, 0.0, 1.0, 0.0, 0.0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def losses_after(values: list[float], total_steps: float = 1000.0) -> dict[str, torch.Tensor]:
    state = init_losses(torch.tensor(total_steps))
    for value in values:
        state = update_losses(state, torch.tensor(value))
    return state


def test_half_lives_span_the_run() -> None:
    half_lives = -1.0 / losses_after([])["loss_log_decays"]
    np.testing.assert_allclose(half_lives[[0, -1]], [10.0, 1000.0], rtol=1e-5)
    ratios = half_lives[1:] / half_lives[:-1]
    np.testing.assert_allclose(ratios, ratios[0].expand(9), rtol=1e-5)


def test_loss_features_tell_a_falling_from_a_rising_loss() -> None:
    falling = loss_features(losses_after([10.0 * 0.9**i for i in range(50)]))
    np.testing.assert_allclose(falling, -torch.ones(9), atol=1e-6)
    rising = loss_features(losses_after([1.0 + 0.01 * i for i in range(50)]))
    assert rising.min() > 0


def test_loss_features_do_not_depend_on_the_losses_scale_or_offset() -> None:
    values = [3.0, 2.0, 1.0, 1.5, 1.2, 1.4]
    plain, moved = loss_features(losses_after(values)), loss_features(losses_after([5 * v + 2 for v in values]))
    torch.testing.assert_close(plain, moved, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("spike", [1e30, float("inf"), float("nan")])
def test_a_spike_of_the_loss_does_not_last(spike: float) -> None:
    state = losses_after([1.0, 1.0, 1.0, spike, 1.0])
    assert (state["loss_means"] / -torch.expm1(5 * state["loss_log_decays"])).max() < 1.4
    assert loss_features(losses_after([spike, 1.0, 1.0, 1.0])).isfinite().all()


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="num_bank must be >= 1"):
        VeLO(num_bank=0)
    with pytest.raises(ValueError, match="lstm_hidden_size must be >= 1"):
        VeLO(lstm_hidden_size=0)
